/* A disk that takes its time, for jobs that must not be done before something happens to them.
 * Preloaded (LD_PRELOAD): fdatasync first waits as many seconds as the file SLOW_DISK says, while
 * there is such a file. A signal ends the wait of its thread. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int fdatasync(int descriptor) {
    const char *path = getenv("SLOW_DISK");
    FILE *file = path ? fopen(path, "re") : NULL;
    double seconds = 0;
    if (file) {
        if (fscanf(file, "%lf", &seconds) != 1) seconds = 0;
        fclose(file);
    }
    struct timespec rest = {(time_t)seconds, (long)(1e9 * (seconds - (time_t)seconds))};
    nanosleep(&rest, NULL);
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(descriptor);
}
