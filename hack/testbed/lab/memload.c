/* memload PORT [DISK] is the load generator of a lab guest. The host commands it over a virtio-serial port.
 *
 * A command is a line "ID COMMAND [ARGUMENT ...]". Its answer is a line "ID STATUS KEY=VALUE ...":
 *   set MIB [u|s|z]  hold MIB of anonymous memory; new pages are unique, the same in every guest, or all zero
 *   touch [MIB]      write to the first MIB that are held, or to all: the working set
 *   keep MIB         write to the first MIB that are held again and again, until the next command but info
 *   cache MIB        read the first MIB of DISK through the page cache
 *   spin MS          keep a processor busy for MS
 *   info             change nothing
 * STATUS is "ok", "failed", "bad" (no such command) or "killed": the guest's OOM killer struck during the command.
 *
 * A child process holds the memory. The OOM killer kills it first; the parent survives, answers, and starts another.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MIB (1L << 20)
#define PAGE 4096L
#define MOST_MIB (1L << 16)
#define LINE 128
#define KEEP_PAUSE 5000 /* microseconds between two MiB that are kept: emulated guests share few processors */

struct outcome {
  char status[16];
  long held; /* MiB */
};

static char *held[MOST_MIB];
static long held_count;
static long kept_count; /* MiB that are written to while there is no command */
static const char *disk;
static uint64_t seed, page_number;

static double now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

/* Returns the number after `key` in a file of /proc, or -1. */
static long number(const char *path, const char *key) {
  char text[4096];
  int file = open(path, O_RDONLY);
  ssize_t size = read(file, text, sizeof text - 1);
  close(file);
  if (size < 0) return -1;
  text[size] = 0;
  char *found = strstr(text, key);
  return found ? atol(found + strlen(key)) : -1;
}

static void write_file(const char *path, const char *text) {
  int file = open(path, O_WRONLY);
  if (file < 0 || write(file, text, strlen(text)) < 0) perror(path);
  close(file);
}

static void fill(char *block, char kind) {
  for (long page = 0; page < MIB / PAGE; page++) {
    uint64_t content = kind == 'z' ? 0 : kind == 's' ? 1 + (uint64_t)page : seed ^ ++page_number;
    *(volatile uint64_t *)(block + page * PAGE) = content;
  }
}

static const char *set(long target, char kind) {
  if (target < 0 || target > MOST_MIB) return "failed";
  while (held_count < target) {
    char *block = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block == MAP_FAILED) return "failed";
    fill(block, kind);
    held[held_count++] = block;
  }
  while (held_count > target) munmap(held[--held_count], MIB);
  return "ok";
}

static const char *touch(long count) {
  for (long i = 0; i < count && i < held_count; i++) fill(held[i], 'u');
  return "ok";
}

static const char *cache(long target) {
  static char block[MIB];
  static int file = -1;  // never closed: the kernel drops a disk's cache when its last user closes it
  long done = 0;
  if (file < 0) file = open(disk, O_RDONLY | O_CLOEXEC);
  if (file >= 0) lseek(file, 0, SEEK_SET);
  while (file >= 0 && done < target && read(file, block, MIB) == MIB) done++;
  return done == target ? "ok" : "failed";
}

static const char *spin(long milliseconds) {
  for (double end = now_ms() + milliseconds; now_ms() < end;) continue;
  return "ok";
}

static const char *execute(const char *command) {
  long amount = 0;
  char kind = 'u';
  if (!strcmp(command, "info")) return "ok";
  kept_count = 0;
  if (sscanf(command, "keep %ld", &amount) == 1) {
    kept_count = amount < held_count ? amount : held_count;
    return amount == kept_count ? "ok" : "failed";
  }
  if (sscanf(command, "set %ld %c", &amount, &kind) >= 1) return set(amount, kind);
  if (sscanf(command, "touch %ld", &amount) == 1) return touch(amount);
  if (!strcmp(command, "touch")) return touch(held_count);
  if (sscanf(command, "cache %ld", &amount) == 1) return cache(amount);
  if (sscanf(command, "spin %ld", &amount) == 1) return spin(amount);
  return "bad";
}

static void work(int commands) {
  char command[LINE];
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  write_file("/proc/self/oom_score_adj", "1000");
  for (long next = 0;;) {
    ssize_t size = recv(commands, command, sizeof command - 1, kept_count ? MSG_DONTWAIT : 0);
    if (size < 0 && kept_count) {
      fill(held[next++ % kept_count], 'u');
      usleep(KEEP_PAUSE);
      continue;
    }
    if (size <= 0) break;
    command[size] = 0;
    struct outcome outcome = {.held = 0};
    strncpy(outcome.status, execute(command), sizeof outcome.status - 1);
    outcome.held = held_count;
    send(commands, &outcome, sizeof outcome, 0);
  }
  _exit(0);
}

static int start_worker(void) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) return -1;
  pid_t child = fork();
  if (child == 0) {
    close(pair[0]);
    work(pair[1]);
  }
  close(pair[1]);
  if (child > 0) return pair[0];
  close(pair[0]);
  return -1;
}

/* Makes the worker execute a command; returns false if the worker died. */
static int execute_in_worker(int worker, const char *command, struct outcome *outcome) {
  return send(worker, command, strlen(command), MSG_NOSIGNAL) > 0 &&
         recv(worker, outcome, sizeof *outcome, 0) == sizeof *outcome;
}

/* Waits for a line from the host. */
static void read_line(int port, char line[LINE]) {
  for (size_t length = 0;;) {
    char c;
    ssize_t got = read(port, &c, 1);
    if (got <= 0) usleep(100000); /* the host is not connected */
    else if (c == '\n') { line[length] = 0; return; }
    else if (length < LINE - 1) line[length++] = c;
  }
}

static void answer(int port, long id, const struct outcome *outcome, long kills, double began) {
  char line[320];
  int size = snprintf(line, sizeof line,
                      "%ld %s held_mib=%ld kills=%ld ms=%.0f total_kib=%ld free_kib=%ld available_kib=%ld "
                      "cached_kib=%ld swap_free_kib=%ld stalled_us=%ld\n",
                      id, outcome->status, outcome->held, kills, now_ms() - began,
                      number("/proc/meminfo", "MemTotal:"), number("/proc/meminfo", "MemFree:"),
                      number("/proc/meminfo", "MemAvailable:"), number("/proc/meminfo", "\nCached:") + number("/proc/meminfo", "Buffers:"),
                      number("/proc/meminfo", "SwapFree:"), number("/proc/pressure/memory", "total="));
  if (write(port, line, size) != size) perror("answer");
}

int main(int count, char **arguments) {
  if (count < 2) { fprintf(stderr, "usage: memload PORT [DISK]\n"); return 2; }
  int port = open(arguments[1], O_RDWR | O_CLOEXEC);
  if (port < 0) { perror(arguments[1]); return 1; }
  disk = count > 2 ? arguments[2] : "";
  int random = open("/dev/urandom", O_RDONLY);
  if (read(random, &seed, sizeof seed) < 0) perror("/dev/urandom");
  close(random);
  write_file("/proc/self/oom_score_adj", "-1000");

  int worker = start_worker();
  for (long kills = 0;;) {
    char line[LINE], command[LINE] = "";
    long id = 0;
    read_line(port, line);
    if (sscanf(line, "%ld %127[^\n]", &id, command) < 2) continue;
    double began = now_ms();
    struct outcome outcome = {.status = "killed"};
    /* A worker that was killed while idle is replaced: no status reports it, only `kills` does. */
    while (waitpid(-1, NULL, WNOHANG) > 0) { close(worker); worker = start_worker(); kills++; }
    if (!execute_in_worker(worker, command, &outcome)) {
      close(worker);
      while (waitpid(-1, NULL, 0) < 0 && errno == EINTR) continue;
      worker = start_worker();
      kills++;
      outcome = (struct outcome){.status = "killed"};
    }
    answer(port, id, &outcome, kills, began);
  }
}
