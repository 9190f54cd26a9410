/* lying_agent PORT LIE takes the place of QEMU's guest agent in a lab guest, as the guest's root could have it, and
 * lies to whoever asks it. It opens the port as the guest boots and holds it open.
 *
 * LIE is what it answers to every command but the one that synchronizes client and agent:
 *   honest     that the guest uses its first processor alone
 *   brackets   many small values, in no more characters than an honest answer may have
 *   long       1.8 MB of them
 *   deep       values 20000 deep
 *   escape     an error whose text steers a terminal
 *   silence    nothing
 *   wrong-id   nothing; it does not synchronize either, but with another number than asked for
 *   endless    one answer that does not end
 *   flood      answers without end
 * The command "lie-LIE" makes it go over to another lie, from all but the last three.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int port;

static void say(const char *text, size_t size) {
  while (size > 0) {
    ssize_t written = write(port, text, size);
    if (written > 0) text += written, size -= written;
    else usleep(100000); /* the host is not connected */
  }
}

static void repeat(const char *text, long times) {
  static char block[1 << 16];
  size_t size = strlen(text), fitting = sizeof block / size;
  for (size_t i = 0; i < fitting; i++) memcpy(block + i * size, text, size);
  for (; times > 0; times -= fitting) say(block, size * ((size_t)times < fitting ? (size_t)times : fitting));
}

static void lie(const char *kind) {
  if (!strcmp(kind, "honest"))
    repeat("{\"return\":[{\"logical-id\":0,\"online\":true,\"can-offline\":false}]}\n", 1);
  if (!strcmp(kind, "brackets")) repeat("{\"return\":[", 1), repeat("[],", 15000), repeat("[]]}\n", 1);
  if (!strcmp(kind, "long")) repeat("{\"return\":[", 1), repeat("[],", 600000), repeat("[]]}\n", 1);
  if (!strcmp(kind, "deep")) repeat("{\"return\":", 1), repeat("[", 20000), repeat("]", 20000), repeat("}\n", 1);
  if (!strcmp(kind, "endless")) for (repeat("{\"return\":[", 1);;) repeat("[],", 1 << 16);
  if (!strcmp(kind, "flood")) for (;;) repeat("{\"return\":{}}\n", 1 << 16);
  if (!strcmp(kind, "escape"))
    repeat("{\"error\":{\"class\":\"GenericError\",\"desc\":\"\\u001b]0;mine\\u0007\\u001b[2J\\u202egone\"}}\n", 1);
}

/* Answers what libvirt begins with; returns false for any other command. */
static int synchronize(const char *line, const char *kind) {
  char answer[64];
  const char *id = strstr(line, "\"id\":");
  if (!strstr(line, "guest-sync") || !id) return 0;
  long long number = atoll(id + strlen("\"id\":")) + (strcmp(kind, "wrong-id") == 0);
  const char *delimiter = strstr(line, "guest-sync-delimited") ? "\377" : "";
  say(answer, snprintf(answer, sizeof answer, "%s{\"return\":%lld}\n", delimiter, number));
  return 1;
}

/* Goes over to another lie if that is what the command says. */
static int change(const char *line, char kind[16]) {
  const char *found = strstr(line, "\"lie-");
  if (!found || sscanf(found, "\"lie-%15[a-z-]", kind) != 1) return 0;
  repeat("{\"return\":{}}\n", 1);
  return 1;
}

int main(int count, char **arguments) {
  char line[4096], kind[16] = "";
  if (count != 3) { fprintf(stderr, "usage: lying_agent PORT LIE\n"); return 2; }
  strncpy(kind, arguments[2], sizeof kind - 1);
  port = open(arguments[1], O_RDWR);
  if (port < 0) { perror(arguments[1]); return 1; }
  for (size_t length = 0;;) {
    ssize_t got = read(port, line + length, 1);
    if (got <= 0) usleep(100000); /* the host is not connected */
    else if (line[length] != '\n') length += length < sizeof line - 2;
    else {
      line[length] = 0, length = 0;
      if (!synchronize(line, kind) && !change(line, kind)) lie(kind);
    }
  }
}
