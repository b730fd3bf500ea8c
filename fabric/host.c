/* host.c - see host.h. A PID namespace and a device have the same numbers on every machine, so it is the kernel's boot id that
 * tells machines apart; the rest tells apart what runs under one kernel. */
#include "fabric/host.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clk.h"
#include "base/hash.h"

#define BOOT_ID "/proc/sys/kernel/random/boot_id"

/* The same whenever this process asks, in no other. */
static uint64_t own_number(void) {
    static _Atomic uint64_t drawn;
    uint64_t none = 0, n;
    if (getrandom(&n, sizeof n, GRND_NONBLOCK) != sizeof n) n = (uint64_t)clk_now_us();
    atomic_compare_exchange_strong(&drawn, &none, n | 1);
    return atomic_load(&drawn) ^ (uint64_t)getpid(); /* a child has another */
}

static uint64_t kernel_number(void) {
    char text[64];
    int fd = open(BOOT_ID, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text);
    if (fd >= 0) close(fd);
    return n > 0 ? hash_bytes(text, (size_t)n) : own_number();
}

void fabric_host_id(char out[HOST_ID_BYTES]) {
    char name[HOST_ID_BYTES] = "";
    struct stat shm = {0}, pids = {0};
    if (gethostname(name, sizeof name - 1) < 0) name[0] = '\0';
    uint64_t h = hash_u64(kernel_number()) ^ hash_bytes(name, strlen(name));
    if (stat("/dev/shm", &shm) == 0) h = hash_u64(h) ^ (uint64_t)shm.st_dev;
    h = stat("/proc/self/ns/pid", &pids) == 0 ? hash_u64(h) ^ (uint64_t)pids.st_ino : hash_u64(h ^ own_number());
    snprintf(out, HOST_ID_BYTES, "%.40s-%016llx", name[0] ? name : "host", (unsigned long long)hash_u64(h));
}
