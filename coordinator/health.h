/* health.h - is every part moving? Pure: what a part owes, how far it has come and the time go in, a verdict comes out.
 *
 * A part is late when it owed work and did none of it for its deadline: amber. After twice that it is red, as is whatever keeps
 * requests from being served. A part that owes nothing is well. Green is never a matter of not having looked: whoever judges
 * does it before every answer. Time during which nobody looked counts against nobody. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

enum health_level { HEALTH_GREEN, HEALTH_AMBER, HEALTH_RED };
const char *health_level_name(enum health_level l);

struct health { /* of the worst part; of several equally bad ones the first judged */
    enum health_level level;
    char part[48], text[512]; /* "" when green */
};
struct health_watch { /* one part; zeroed: nothing known */
    bool owes;
    uint64_t counter;
    int64_t since_us;
};

/* How long it has owed something without its counter moving. gap_us: time since the last look that counts for nobody. */
int64_t health_watch(struct health_watch *w, bool owes, uint64_t counter, int64_t now_us, int64_t gap_us);
/* Keeps the worse of what *h says and what this part is. */
void health_is(struct health *h, enum health_level level, const char *part, const char *text);
void health_late(struct health *h, const char *part, const char *what, int64_t still_us, int64_t deadline_us);
