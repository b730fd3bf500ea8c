/* revive.c - see revive.h. */
#include "cli/revive.h"

#include <stdio.h>
#include <string.h>

int64_t revive_after(struct revive *r, int64_t now_us) {
    int old = 0;
    while (old < r->n && now_us - r->died_us[old] > REVIVE_WITHIN_S * INT64_C(1000000)) old++;
    r->n -= old;
    memmove(r->died_us, r->died_us + old, sizeof *r->died_us * (size_t)r->n);
    r->died_us[r->n++] = now_us;
    if (r->n < REVIVE_DEATHS) return r->n == 1 ? 0 : INT64_C(250000) << (r->n - 1);
    r->n--; /* whoever asks again is told the same */
    return -1;
}

const char *revive_say(int64_t wait_us, char *buf, size_t cap) {
    if (!wait_us) snprintf(buf, cap, "another is started");
    else if (wait_us > 0) snprintf(buf, cap, "another is started in %.1f s", (double)wait_us / 1e6);
    else
        snprintf(buf, cap, "that was %d times within %d s, so it is not started again", REVIVE_DEATHS, REVIVE_WITHIN_S);
    return buf;
}
