/* Preloaded into a program: records what it does to the files of the folder $DISK_RECORD, in order, in the file
 * $DISK_RECORD.log. A record is a letter (w write, t truncate, s sync, u unlink), the lengths of the file's name and
 * of the bytes, an offset, the name and the bytes. It is written after the call has succeeded. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static pthread_mutex_t order = PTHREAD_MUTEX_INITIALIZER;

/* The file's name, if it is in the folder. */
static const char *name_of(const char *path) {
    const char *folder = getenv("DISK_RECORD");
    size_t length = folder ? strlen(folder) : 0;
    return length && !strncmp(path, folder, length) && path[length] == '/' ? path + length + 1 : NULL;
}

static const char *name_of_fd(int fd, char *path, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t read = readlink(link, path, size - 1);
    if (read < 0) return NULL;
    path[read] = 0;
    return name_of(path);
}

static void record(char what, const char *name, uint64_t at, const void *bytes, uint64_t size) {
    static int log = -1;
    char path[4096];
    if (log < 0) {
        snprintf(path, sizeof path, "%s.log", getenv("DISK_RECORD"));
        log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    }
    uint64_t head[4] = {(unsigned char)what, strlen(name), size, at};
    struct iovec parts[3] = {{head, sizeof head}, {(void *)name, head[1]}, {(void *)bytes, size}};
    if (writev(log, parts, 3) != (ssize_t)(sizeof head + head[1] + size)) abort();
}

/* Calls, and records a success, as one step. */
#define RECORDED(fd, call, what, at, bytes, size)                  \
    char path[4096];                                               \
    const char *name = name_of_fd(fd, path, sizeof path);          \
    if (!name) return call;                                        \
    pthread_mutex_lock(&order);                                    \
    __typeof__(call) done = call;                                  \
    if (done >= 0) record(what, name, at, bytes, size);            \
    pthread_mutex_unlock(&order);                                  \
    return done

ssize_t pwrite(int fd, const void *bytes, size_t size, off_t at) {
    RECORDED(fd, REAL(pwrite)(fd, bytes, size, at), 'w', at, bytes, done);
}
ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t at) {
    RECORDED(fd, REAL(pwrite64)(fd, bytes, size, at), 'w', at, bytes, done);
}
ssize_t write(int fd, const void *bytes, size_t size) {
    off_t at = lseek(fd, 0, SEEK_CUR);
    RECORDED(fd, REAL(write)(fd, bytes, size), 'w', at, bytes, done);
}
int ftruncate(int fd, off_t size) { RECORDED(fd, REAL(ftruncate)(fd, size), 't', size, "", 0); }
int ftruncate64(int fd, off64_t size) { RECORDED(fd, REAL(ftruncate64)(fd, size), 't', size, "", 0); }
int fsync(int fd) { RECORDED(fd, REAL(fsync)(fd), 's', 0, "", 0); }
int fdatasync(int fd) { RECORDED(fd, REAL(fdatasync)(fd), 's', 0, "", 0); }
int unlink(const char *path) {
    const char *name = name_of(path);
    if (!name) return REAL(unlink)(path);
    pthread_mutex_lock(&order);
    int done = REAL(unlink)(path);
    if (!done) record('u', name, 0, "", 0);
    pthread_mutex_unlock(&order);
    return done;
}
