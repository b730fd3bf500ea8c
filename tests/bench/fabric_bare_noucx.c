/* fabric_bare_noucx.c - stands in for fabric_bare_ucx.c in a build without UCX. */
#include "base/log.h"
#include "tests/bench/bench_fabric.h"

const bool bare_has_ucx = false;

size_t bare_ucx_open(struct bare *b, void *address) {
    (void)b, (void)address;
    die("this build has no UCX");
}

void bare_by_messages(struct bare *b, unsigned char (*addresses)[BARE_UCX_ADDRESS]) { (void)b, (void)addresses; }
void bare_ucx_close(struct bare *b) { (void)b; }
