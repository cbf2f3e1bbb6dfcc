// Shifts the wall clock of a process by the seconds in the file that FAULTS_CLOCK names, read anew
// every few milliseconds; the monotonic clock stays. Preloaded into Python processes, which ask
// through libc. (wandb-core is Go: it asks the kernel directly, and keeps the true clock.)
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int (*real_clock_gettime)(clockid_t, struct timespec *);
static volatile long shift_s;
static volatile long read_at_ms = -1;

static long shift(void) {
    struct timespec now;
    real_clock_gettime(CLOCK_MONOTONIC, &now);
    long now_ms = now.tv_sec * 1000 + now.tv_nsec / 1000000;
    if (read_at_ms >= 0 && now_ms - read_at_ms < 5) return shift_s;
    read_at_ms = now_ms;
    const char *path = getenv("FAULTS_CLOCK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return shift_s;
    char text[32] = {0};
    if (read(fd, text, sizeof text - 1) > 0) shift_s = atol(text);
    close(fd);
    return shift_s;
}

static void find_real(void) {
    if (!real_clock_gettime)
        real_clock_gettime =
            (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
}

int clock_gettime(clockid_t clock, struct timespec *result) {
    find_real();
    int status = real_clock_gettime(clock, result);
    if (status == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        result->tv_sec += shift();
    return status;
}

int gettimeofday(struct timeval *restrict result, void *restrict zone) {
    (void)zone;
    struct timespec now;
    int status = clock_gettime(CLOCK_REALTIME, &now);
    result->tv_sec = now.tv_sec;
    result->tv_usec = now.tv_nsec / 1000;
    return status;
}

time_t time(time_t *result) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result) *result = now.tv_sec;
    return now.tv_sec;
}
