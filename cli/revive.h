/* revive.h - when to start a process again that died: at once the first time, later and later when it dies again and again, and
 * no more when that does not help. Pure. */
#pragma once
#include <stddef.h>
#include <stdint.h>

enum { REVIVE_DEATHS = 5, REVIVE_WITHIN_S = 60 }; /* so many within so long are enough */
struct revive {
    int64_t died_us[REVIVE_DEATHS]; /* the last ones, oldest first */
    int n;
};

/* It died. How long to wait before another is started: 0, then 0.5 s, 1 s, 2 s. Negative: no other. */
int64_t revive_after(struct revive *r, int64_t now_us);
/* "another is started in 0.5 s" */
const char *revive_say(int64_t wait_us, char *buf, size_t cap);
