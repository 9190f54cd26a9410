/*
 * Stands in for virtqemud, which Debian does not ship: opens virtqemud's socket and becomes libvirtd, the same daemon
 * with all drivers in one, which takes the socket over as systemd would have handed it.
 *
 * usage: virtqemud [-d] [argument of libvirtd...]
 *   -d  return once clients can connect
 */
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define DIRECTORY "/var/run/libvirt"
#define SOCKET DIRECTORY "/virtqemud-sock"
#define LIBVIRTD_SOCKET DIRECTORY "/libvirt-sock"
#define FIRST_FD 3 /* where socket activation has it */

static void listen_there(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = SOCKET};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    mkdir(DIRECTORY, 0755);
    unlink(SOCKET);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 64))
        err(1, "%s", SOCKET);
    chmod(SOCKET, 0666); /* as virtqemud's: who may connect is the pod's business */
    if (fd != FIRST_FD && (dup2(fd, FIRST_FD) < 0 || close(fd)))
        err(1, "dup2");
    if (geteuid() == 0 && symlink("virtqemud-sock", LIBVIRTD_SOCKET)) {
        /* There already, or of no use: Debian's virsh connects to libvirtd unless it is told a socket. */
    }
}

int main(int count, char **arguments)
{
    char pid[32];
    int daemon = count > 1 && strcmp(arguments[1], "-d") == 0;
    char **rest = arguments + daemon; /* its first entry becomes the program's name */

    listen_there();
    if (daemon && fork() > 0)
        return 0;
    snprintf(pid, sizeof pid, "%d", getpid());
    setenv("LISTEN_PID", pid, 1);
    setenv("LISTEN_FDS", "1", 1);
    setenv("LISTEN_FDNAMES", "libvirtd.socket", 1);
    rest[0] = "libvirtd";
    execv("/usr/sbin/libvirtd", rest);
    err(1, "libvirtd");
}
