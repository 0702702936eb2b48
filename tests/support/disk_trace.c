/* Preloaded into a process: writes down, in order, each change that it makes below FOEDUS_TRACED to FOEDUS_TRACE.
 *
 * A record is one line "KIND INODE OFFSET SIZE NAME OTHER" and, for a write, its SIZE bytes. NAME and OTHER are paths
 * without the folder's, "-" where there is none. Only what succeeded is written down; one thread is assumed.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static const char *folder;
static int trace = -1;

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("FOEDUS_TRACE");
  folder = getenv("FOEDUS_TRACED");
  if (path == NULL || folder == NULL) return;
  int opened = REAL(open)(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  trace = fcntl(opened, F_DUPFD_CLOEXEC, 500);  /* out of the way of whoever closes what it did not open */
  REAL(close)(opened);
}

/* The path without the folder's, NULL for what lies elsewhere. */
static const char *below(const char *path) {
  size_t length = folder == NULL ? 0 : strlen(folder);
  if (trace < 0 || length == 0 || path == NULL || strncmp(path, folder, length) != 0) return NULL;
  if (path[length] == '\0') return ".";
  return path[length] == '/' ? path + length + 1 : NULL;
}

static const char *below_of(int descriptor) {
  static char path[PATH_MAX];
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  ssize_t size = readlink(link, path, sizeof path - 1);
  if (size < 0) return NULL;
  path[size] = '\0';
  return below(path);
}

static void append(const void *bytes, size_t size) {
  if (REAL(write)(trace, bytes, size) != (ssize_t)size) abort();
}

static void note(const char *kind, uint64_t inode, uint64_t offset, uint64_t size, const char *name, const char *other) {
  int before = errno;
  char line[2 * PATH_MAX + 128];
  int length = snprintf(line, sizeof line, "%s %lu %lu %lu %s %s\n", kind, (unsigned long)inode, (unsigned long)offset,
                        (unsigned long)size, name, other);
  append(line, (size_t)length);
  errno = before;
}

static uint64_t inode_of(int descriptor) {
  struct stat status;
  return fstat(descriptor, &status) == 0 ? status.st_ino : 0;
}

static int opened(int descriptor, int flags, int existed) {
  const char *name = descriptor < 0 ? NULL : below_of(descriptor);
  if (name != NULL && (flags & O_CREAT) && !existed) note("create", inode_of(descriptor), 0, 0, name, "-");
  if (name != NULL && (flags & O_TRUNC) && existed) note("cut", inode_of(descriptor), 0, 0, name, "-");
  return descriptor;
}

#define MODE(flags, last) \
  mode_t mode = 0; \
  if ((flags) & O_CREAT) { va_list rest; va_start(rest, last); mode = va_arg(rest, mode_t); va_end(rest); }

int open(const char *path, int flags, ...) {
  MODE(flags, flags)
  int existed = access(path, F_OK) == 0;
  return opened(REAL(open)(path, flags, mode), flags, existed);
}

int open64(const char *path, int flags, ...) {
  MODE(flags, flags)
  int existed = access(path, F_OK) == 0;
  return opened(REAL(open64)(path, flags, mode), flags, existed);
}

static void wrote(int descriptor, const void *bytes, uint64_t offset, ssize_t size) {
  const char *name = size < 0 ? NULL : below_of(descriptor);
  if (name == NULL) return;
  note("write", inode_of(descriptor), offset, (uint64_t)size, name, "-");
  append(bytes, (size_t)size);
}

ssize_t write(int descriptor, const void *bytes, size_t size) {
  struct stat status = {0};
  int flags = fcntl(descriptor, F_GETFL);
  off_t offset = lseek(descriptor, 0, SEEK_CUR);
  if (flags >= 0 && (flags & O_APPEND) && fstat(descriptor, &status) == 0) offset = status.st_size;
  ssize_t written = REAL(write)(descriptor, bytes, size);
  if (offset >= 0) wrote(descriptor, bytes, (uint64_t)offset, written);
  return written;
}

ssize_t pwrite(int descriptor, const void *bytes, size_t size, off_t offset) {
  ssize_t written = REAL(pwrite)(descriptor, bytes, size, offset);
  wrote(descriptor, bytes, (uint64_t)offset, written);
  return written;
}

ssize_t pwrite64(int descriptor, const void *bytes, size_t size, off64_t offset) {
  ssize_t written = REAL(pwrite64)(descriptor, bytes, size, offset);
  wrote(descriptor, bytes, (uint64_t)offset, written);
  return written;
}

static int cut(int result, int descriptor, uint64_t size) {
  const char *name = result != 0 ? NULL : below_of(descriptor);
  if (name != NULL) note("cut", inode_of(descriptor), 0, size, name, "-");
  return result;
}

int ftruncate(int descriptor, off_t size) { return cut(REAL(ftruncate)(descriptor, size), descriptor, (uint64_t)size); }

int ftruncate64(int descriptor, off64_t size) {
  return cut(REAL(ftruncate64)(descriptor, size), descriptor, (uint64_t)size);
}

static int synced(int result, int descriptor) {
  const char *name = result != 0 ? NULL : below_of(descriptor);
  if (name != NULL) note("sync", inode_of(descriptor), 0, 0, name, "-");
  return result;
}

int fsync(int descriptor) { return synced(REAL(fsync)(descriptor), descriptor); }

int fdatasync(int descriptor) { return synced(REAL(fdatasync)(descriptor), descriptor); }

static int named(int result, const char *kind, const char *from, const char *to) {
  const char *first = below(from), *second = below(to);
  if (result == 0 && (first != NULL || second != NULL)) note(kind, 0, 0, 0, first ? first : "-", second ? second : "-");
  return result;
}

int rename(const char *from, const char *to) { return named(REAL(rename)(from, to), "rename", from, to); }

int link(const char *from, const char *to) { return named(REAL(link)(from, to), "link", from, to); }

int linkat(int folder_from, const char *from, int folder_to, const char *to, int flags) {
  return named(REAL(linkat)(folder_from, from, folder_to, to, flags), "link", from, to);
}

int unlink(const char *path) { return named(REAL(unlink)(path), "unlink", path, NULL); }
