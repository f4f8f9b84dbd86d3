/* Moves this process's wall clock, and nothing else, by the number of seconds in the file CLOCK_SHIM names.
 *
 * Preloaded by the stepping-clock test. CLOCK_MONOTONIC and every time-out stay true, as they do when an operator or
 * NTP sets a host's clock.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *out) {
    int result = (int)syscall(SYS_clock_gettime, clock, out);
    const char *path = getenv("CLOCK_SHIM");
    if (result == 0 && clock == CLOCK_REALTIME && path != NULL) {
        char text[32] = {0};
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd >= 0) {
            if (read(fd, text, sizeof text - 1) > 0) {
                out->tv_sec += atol(text);
            }
            close(fd);
        }
    }
    return result;
}
