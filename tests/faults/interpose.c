/* Stands between a program and the C library: notes what reaches the files of one folder, and makes
 * chosen calls fail. Preloaded (LD_PRELOAD) into the jobs that the fault tests start.
 *
 *   INTERPOSE_FOLDER  calls on files below this folder are seen, all others pass untouched
 *   INTERPOSE_TRACE   folder for one trace file per process: records as struct record, see below,
 *                     the first call that was made to fail among them
 *   INTERPOSE_RANK    failures strike this MPI rank only
 *   INTERPOSE_FAIL    "5:28" the fifth call fails with errno 28, of all that write, sync, resize or
 *                     reserve a file and that make, rename, link or delete a name;
 *                     "2:5:fdatasync" the second fdatasync fails with errno 5
 *   INTERPOSE_FULL    after this many bytes a write stops short, then all fail with ENOSPC
 *   INTERPOSE_LOCKS   "none": every file lock fails with ENOLCK; "lies": it says that it is held;
 *                     "kept": as they are
 *   INTERPOSE_NOSYNC  fdatasync does nothing and says that all is well; the trace tells
 *
 * A program that has it loaded may change its mind by calling interpose_fail and interpose_full, and
 * ask by interpose_struck which call failed.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum kind {
    CREATE = 1, WRITE, RESIZE, SYNC, RENAME, UNLINK, MKDIR, LINK, SKIPPED_SYNC, REFUSED
};

struct record {
    uint32_t kind, path_bytes, second_bytes, folder;
    uint64_t start, end, inode, offset, size, data_bytes;
};

static char folder[PATH_MAX];
static size_t folder_bytes;
static int trace = -1, struck, fail_errno, nosync;
static enum { KEEP, NONE, LIES } locks;
static long fail_at, quota = -1;
static atomic_long calls, written;
static char victim[PATH_MAX + 16], only[16];

#define REAL(name) ((__typeof__(&name))real(#name))
static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

__attribute__((constructor)) static void begin(void) {
    const char *value = getenv("INTERPOSE_FOLDER"), *rank = getenv("INTERPOSE_RANK");
    const char *mine = getenv("OMPI_COMM_WORLD_RANK");
    if (!mine) mine = getenv("PMI_RANK");
    if (!value || !realpath(value, folder)) return;
    folder_bytes = strlen(folder);
    nosync = getenv("INTERPOSE_NOSYNC") != NULL;
    struck = !rank || (mine && !strcmp(rank, mine));
    if ((value = getenv("INTERPOSE_LOCKS")))
        locks = !strcmp(value, "none") ? NONE : !strcmp(value, "lies") ? LIES : KEEP;
    if ((value = getenv("INTERPOSE_FAIL")) && sscanf(value, "%ld:%d:%15s", &fail_at, &fail_errno, only) < 2)
        abort();
    if ((value = getenv("INTERPOSE_FULL"))) quota = atol(value);
    if ((value = getenv("INTERPOSE_TRACE"))) {
        char path[PATH_MAX];
        snprintf(path, sizeof path, "%s/%d.trace", value, (int)getpid());
        trace = REAL(open)(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    }
}

static int below(const char *path) {
    return folder_bytes && !strncmp(path, folder, folder_bytes) &&
           (path[folder_bytes] == '/' || !path[folder_bytes]);
}

/* The absolute name behind a descriptor or a path; false where it is none of our business. */
static int name_of(int descriptor, char *name) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t size = folder_bytes ? readlink(link, name, PATH_MAX - 1) : -1;
    if (size < 0) return 0;
    name[size] = 0;
    return below(name);
}

static int absolute(int at, const char *path, char *name) {
    char base[PATH_MAX] = "";
    if (!folder_bytes || !path) return 0;
    if (*path != '/') {
        if (at == AT_FDCWD) {
            if (!getcwd(base, sizeof base)) return 0;
        } else if (!name_of(at, base)) return 0;
    }
    if (snprintf(name, PATH_MAX, "%s%s%s", base, *base ? "/" : "", path) >= PATH_MAX) return 0;
    return below(name);
}

static void note(enum kind kind, uint64_t start, const char *path, const char *second,
                 const struct stat *status, uint64_t offset, const void *data, size_t size) {
    if (trace < 0) return;
    struct record record = {
        kind, (uint32_t)strlen(path), second ? (uint32_t)strlen(second) : 0,
        status && S_ISDIR(status->st_mode), start, now(), status ? status->st_ino : 0, offset,
        status ? (uint64_t)status->st_size : 0, size};
    struct iovec parts[] = {{&record, sizeof record},
                            {(void *)path, record.path_bytes},
                            {(void *)second, record.second_bytes},
                            {(void *)data, size}};
    static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&one);
    if (REAL(writev)(trace, parts, 4) < 0) abort();
    pthread_mutex_unlock(&one);
}

void interpose_fail(long at, int code) {
    fail_at = at, fail_errno = code, calls = 0;
}
void interpose_full(long bytes) {
    quota = bytes, written = 0;
}
long interpose_calls(void) { return calls; }
long interpose_bytes(void) { return written; }
/* "rename /folder/file" of the first call that was made to fail, nothing before. */
const char *interpose_struck(void) { return victim; }

static int strike(const char *call, const char *name, int code) {
    if (!*victim) {
        snprintf(victim, sizeof victim, "%s %s", call, name);
        note(REFUSED, now(), name, call, NULL, 0, NULL, 0);
    }
    errno = code;
    return 1;
}

static int refuse(const char *call, const char *name) {
    if (!struck || (*only && strcmp(only, call))) return 0;
    if (atomic_fetch_add(&calls, 1) + 1 != fail_at) return 0;
    return strike(call, name, fail_errno);
}

/* How many of these bytes the disk still takes; -1 with errno where it takes none. */
static ssize_t admit(const char *name, size_t size) {
    if (refuse("write", name)) return -1;
    long before = atomic_fetch_add(&written, (long)size);
    if (quota < 0 || !struck || before + (long)size <= quota) return (ssize_t)size;
    strike("write", name, ENOSPC);
    return before < quota ? quota - before : -1;
}

/* Write and note it as one: were a thread held up between the two, its bytes, already in the file,
 * would seem to come after the sync of another thread that covers them. */
static pthread_mutex_t one_write = PTHREAD_MUTEX_INITIALIZER;

static ssize_t put(int descriptor, const void *data, size_t size, off_t offset, int positioned) {
    char name[PATH_MAX];
    int ours = name_of(descriptor, name);
    if (ours) {
        ssize_t room = admit(name, size);
        if (room < 0) return -1;
        size = (size_t)room;
        pthread_mutex_lock(&one_write);
    }
    uint64_t start = now();
    ssize_t count = positioned ? REAL(pwrite)(descriptor, data, size, offset)
                               : REAL(write)(descriptor, data, size);
    if (ours && count > 0) {
        int kept = errno;
        struct stat status;
        fstat(descriptor, &status);
        if (!positioned) offset = lseek(descriptor, 0, SEEK_CUR) - count;
        note(WRITE, start, name, NULL, &status, (uint64_t)offset, data, (size_t)count);
        errno = kept;
    }
    if (ours) pthread_mutex_unlock(&one_write);
    return count;
}

ssize_t write(int descriptor, const void *data, size_t size) {
    return put(descriptor, data, size, 0, 0);
}
ssize_t pwrite(int descriptor, const void *data, size_t size, off_t offset) {
    return put(descriptor, data, size, offset, 1);
}
ssize_t pwrite64(int descriptor, const void *data, size_t size, off64_t offset) {
    return put(descriptor, data, size, offset, 1);
}

static ssize_t put_all(int descriptor, const struct iovec *parts, int count, off_t offset,
                       int positioned) {
    ssize_t total = 0;
    for (int i = 0; i < count; i++) {
        if (!parts[i].iov_len) continue;
        ssize_t done = put(descriptor, parts[i].iov_base, parts[i].iov_len, offset + total,
                           positioned);
        if (done < 0) return total ? total : -1;
        total += done;
        if ((size_t)done < parts[i].iov_len) break;
    }
    return total;
}

ssize_t writev(int descriptor, const struct iovec *parts, int count) {
    char name[PATH_MAX];
    if (!name_of(descriptor, name)) return REAL(writev)(descriptor, parts, count);
    return put_all(descriptor, parts, count, 0, 0);
}
ssize_t pwritev(int descriptor, const struct iovec *parts, int count, off_t offset) {
    return put_all(descriptor, parts, count, offset, 1);
}
ssize_t pwritev64(int descriptor, const struct iovec *parts, int count, off64_t offset) {
    return put_all(descriptor, parts, count, offset, 1);
}

static int sync_file(int descriptor, int data_only) {
    char name[PATH_MAX];
    struct stat status;
    int ours = name_of(descriptor, name);
    uint64_t start = now();
    if (ours && refuse(data_only ? "fdatasync" : "fsync", name)) return -1;
    int skipped = ours && data_only && nosync, result = 0;
    if (!skipped) result = data_only ? REAL(fdatasync)(descriptor) : REAL(fsync)(descriptor);
    if (ours && !result && !fstat(descriptor, &status))
        note(skipped ? SKIPPED_SYNC : SYNC, start, name, NULL, &status, 0, NULL, 0);
    return result;
}

int fsync(int descriptor) { return sync_file(descriptor, 0); }
int fdatasync(int descriptor) { return sync_file(descriptor, 1); }

static int open_file(int at, const char *path, int flags, mode_t mode) {
    char name[PATH_MAX];
    struct stat status;
    int ours = absolute(at, path, name);
    int fresh = ours && (flags & O_CREAT) && stat(name, &status) != 0;
    if (ours && (flags & O_CREAT) && refuse("open", name)) return -1;
    uint64_t start = now();
    int descriptor = REAL(openat)(at, path, flags, mode);
    if (descriptor >= 0 && ours && !fstat(descriptor, &status)) {
        if (fresh) note(CREATE, start, name, NULL, &status, 0, NULL, 0);
        else if (flags & O_TRUNC) note(RESIZE, start, name, NULL, &status, 0, NULL, 0);
    }
    return descriptor;
}

#define MODE(flags)                                     \
    mode_t mode = 0;                                    \
    if ((flags) & (O_CREAT | __O_TMPFILE)) {            \
        va_list more;                                   \
        va_start(more, flags);                          \
        mode = va_arg(more, mode_t);                    \
        va_end(more);                                   \
    }

int open(const char *path, int flags, ...) {
    MODE(flags)
    return open_file(AT_FDCWD, path, flags, mode);
}
int open64(const char *path, int flags, ...) {
    MODE(flags)
    return open_file(AT_FDCWD, path, flags, mode);
}
int openat(int at, const char *path, int flags, ...) {
    MODE(flags)
    return open_file(at, path, flags, mode);
}
int openat64(int at, const char *path, int flags, ...) {
    MODE(flags)
    return open_file(at, path, flags, mode);
}

static void note_size(const char *name, int descriptor, uint64_t start) {
    struct stat status;
    if (!fstat(descriptor, &status)) note(RESIZE, start, name, NULL, &status, 0, NULL, 0);
}

int ftruncate(int descriptor, off_t size) {
    char name[PATH_MAX];
    int ours = name_of(descriptor, name);
    if (ours && refuse("ftruncate", name)) return -1;
    uint64_t start = now();
    int result = REAL(ftruncate)(descriptor, size);
    if (!result && ours) note_size(name, descriptor, start);
    return result;
}
int ftruncate64(int descriptor, off64_t size) { return ftruncate(descriptor, size); }
int fallocate(int descriptor, int mode, off_t offset, off_t size) {
    char name[PATH_MAX];
    int ours = name_of(descriptor, name);
    if (ours && refuse("fallocate", name)) return -1;
    uint64_t start = now();
    int result = REAL(fallocate)(descriptor, mode, offset, size);
    if (!result && ours) note_size(name, descriptor, start);
    return result;
}

static void note_two(enum kind kind, uint64_t start, const char *first, const char *second) {
    struct stat status;
    if (!stat(second, &status)) note(kind, start, first, second, &status, 0, NULL, 0);
}

static int move(int from, const char *old, int to, const char *fresh) {
    char first[PATH_MAX], second[PATH_MAX];
    int ours = absolute(from, old, first) && absolute(to, fresh, second);
    if (ours && refuse("rename", first)) return -1;
    uint64_t start = now();
    int result = REAL(renameat)(from, old, to, fresh);
    if (!result && ours) note_two(RENAME, start, first, second);
    return result;
}
int rename(const char *old, const char *fresh) { return move(AT_FDCWD, old, AT_FDCWD, fresh); }
int renameat(int from, const char *old, int to, const char *fresh) {
    return move(from, old, to, fresh);
}

static int name_again(int from, const char *old, int to, const char *fresh, int flags) {
    char first[PATH_MAX], second[PATH_MAX];
    int ours = absolute(from, old, first) && absolute(to, fresh, second);
    if (ours && refuse("link", first)) return -1;
    uint64_t start = now();
    int result = REAL(linkat)(from, old, to, fresh, flags);
    if (!result && ours) note_two(LINK, start, first, second);
    return result;
}
int link(const char *old, const char *fresh) {
    return name_again(AT_FDCWD, old, AT_FDCWD, fresh, 0);
}
int linkat(int from, const char *old, int to, const char *fresh, int flags) {
    return name_again(from, old, to, fresh, flags);
}

static int remove_name(int at, const char *path, int flags) {
    char name[PATH_MAX];
    int ours = absolute(at, path, name);
    if (ours && refuse("unlink", name)) return -1;
    uint64_t start = now();
    int result = REAL(unlinkat)(at, path, flags);
    if (!result && ours) note(UNLINK, start, name, NULL, NULL, 0, NULL, 0);
    return result;
}
int unlink(const char *path) { return remove_name(AT_FDCWD, path, 0); }
int unlinkat(int at, const char *path, int flags) { return remove_name(at, path, flags); }

static int make_folder(int at, const char *path, mode_t mode) {
    char name[PATH_MAX];
    int ours = absolute(at, path, name);
    if (ours && refuse("mkdir", name)) return -1;
    uint64_t start = now();
    int result = REAL(mkdirat)(at, path, mode);
    if (!result && ours) note(MKDIR, start, name, NULL, NULL, 0, NULL, 0);
    return result;
}
int mkdir(const char *path, mode_t mode) { return make_folder(AT_FDCWD, path, mode); }
int mkdirat(int at, const char *path, mode_t mode) { return make_folder(at, path, mode); }

int fcntl(int descriptor, int command, ...) {
    char name[PATH_MAX];
    va_list more;
    va_start(more, command);
    void *argument = va_arg(more, void *);
    va_end(more);
    int locking = command == F_SETLK || command == F_SETLKW;
    if (locking && locks && name_of(descriptor, name)) {
        errno = ENOLCK;
        return locks == LIES ? 0 : -1;
    }
    return REAL(fcntl)(descriptor, command, argument);
}
int fcntl64(int descriptor, int command, ...) {
    va_list more;
    va_start(more, command);
    void *argument = va_arg(more, void *);
    va_end(more);
    return fcntl(descriptor, command, argument);
}
