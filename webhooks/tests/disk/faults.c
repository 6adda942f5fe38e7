/* Preloaded into the receiver: a disk that is full, or on which a sync fails, for as long as a file
 * called "full" or "sync" is in the folder $DISK_FAULTS. What fails is the system call itself. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static int fails(const char *name, int fd, int error) {
    char path[4096];
    struct stat file;
    const char *folder = getenv("DISK_FAULTS");
    if (!folder || fstat(fd, &file) || !S_ISREG(file.st_mode)) return 0;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (access(path, F_OK)) return 0;
    errno = error;
    return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void *bytes, size_t size) {
    return fails("full", fd, ENOSPC) ? -1 : REAL(write)(fd, bytes, size);
}
ssize_t pwrite(int fd, const void *bytes, size_t size, off_t at) {
    return fails("full", fd, ENOSPC) ? -1 : REAL(pwrite)(fd, bytes, size, at);
}
ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t at) {
    return fails("full", fd, ENOSPC) ? -1 : REAL(pwrite64)(fd, bytes, size, at);
}
int fsync(int fd) { return fails("sync", fd, EIO) ? -1 : REAL(fsync)(fd); }
int fdatasync(int fd) { return fails("sync", fd, EIO) ? -1 : REAL(fdatasync)(fd); }
