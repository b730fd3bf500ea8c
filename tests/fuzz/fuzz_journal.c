/* fuzz_journal.c - a segment's bytes. The first says how it is read: as it is; with checksums mended, so that what is inside
 * the records is reached; with repair. What was read is dumped, and the dump says the same again. */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "coordinator/journal_scan.h"
#include "coordinator/journal_state.h"
#include "tests/fuzz/fuzz.h"

enum { SEGMENT = 3, MEND = 1, REPAIR = 2 };

static int take(void *ctx, uint64_t offset, const struct journal_record *r, struct why *why) {
    (void)offset;
    return journal_state_apply(ctx, r, why);
}

static struct journal_scan read_all(const uint8_t *data, size_t size, bool repair, struct journal_state *s, int *rc) {
    struct journal_visitor v = {take, s};
    struct journal_scan scan;
    struct why why = {""};
    FUZZ_CHECK(journal_state_init(s) >= 0);
    *rc = journal_scan(data, size, repair, &v, &scan, &why);
    FUZZ_CHECK(*rc >= 0 || strlen(why.text) > 5);
    FUZZ_CHECK(scan.bytes <= size && scan.cut_bytes <= size && scan.damaged_bytes <= size);
    return scan;
}

static void mend(uint8_t *data, size_t size) {
    if (size < JOURNAL_HEADER_BYTES) return;
    struct journal_header h = {.segment = SEGMENT};
    memcpy(&h.base_bytes, data + 32, sizeof h.base_bytes);
    journal_make_header(&h, data);
    for (size_t at = JOURNAL_HEADER_BYTES; size - at >= JOURNAL_HEAD_BYTES;) {
        struct journal_head head = journal_get_head(data + at);
        if (head.len > size - at - JOURNAL_HEAD_BYTES) return;
        journal_seal(data + at, JOURNAL_HEAD_BYTES + head.len, SEGMENT, at);
        at += JOURNAL_HEAD_BYTES + head.len;
    }
}

/* Header and base of a segment that holds the state. */
static struct journal_bytes segment_of(struct journal_state *s) {
    struct journal_bytes base = {0}, out = {0};
    FUZZ_CHECK(journal_state_dump(s, 5, &base) >= 0);
    out.len = JOURNAL_HEADER_BYTES + base.len;
    out.data = malloc(out.len);
    FUZZ_CHECK(out.data);
    journal_make_header(&(struct journal_header){.segment = SEGMENT, .base_bytes = out.len}, out.data);
    journal_seal(base.data, base.len, SEGMENT, JOURNAL_HEADER_BYTES);
    memcpy(out.data + JOURNAL_HEADER_BYTES, base.data, base.len);
    journal_bytes_clear(&base);
    return out;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct journal_state s, again;
    int rc;
    if (!size) return 0;
    uint8_t *copy = malloc(size), how = data[0];
    FUZZ_CHECK(copy);
    memcpy(copy, data + 1, size - 1);
    if (how & MEND) mend(copy, size - 1);
    read_all(copy, size - 1, how & REPAIR, &s, &rc);
    if (rc >= 0 && s.started) {
        struct journal_bytes first = segment_of(&s);
        read_all(first.data, first.len, false, &again, &rc);
        FUZZ_CHECK(rc >= 0 && again.n_requests == s.n_requests);
        struct journal_bytes second = segment_of(&again);
        FUZZ_CHECK(first.len == second.len && !memcmp(first.data, second.data, first.len));
        journal_bytes_clear(&first);
        journal_bytes_clear(&second);
        journal_state_clear(&again);
    }
    journal_state_clear(&s);
    free(copy);
    return 0;
}

static void fill(struct journal_state *s) {
    static const int32_t ids[] = {1, 2, 3};
    static const struct text_slice stops[] = {{"stop", 4}};
    static const struct top_token top[] = {{4, -1.0f}};
    struct journal_record r[] = {
        {.kind = JOURNAL_START, .start = {.counters = {1, 2, 3, 4}, .model = {"model", 5}}},
        {.kind = JOURNAL_CLASS, .numeric_class = {"class", 5}},
        {.kind = JOURNAL_ACCEPT,
         .accept = {.number = 5,
                    .ids = ids,
                    .n_ids = 3,
                    .stop_ids = ids,
                    .n_stop_ids = 1,
                    .stops = stops,
                    .n_stops = 1,
                    .tag = {"tag", 3},
                    .max_tokens = 9}},
        {.kind = JOURNAL_ACCEPT, .accept = {.number = 6, .ids = ids, .n_ids = 1}},
        {.kind = JOURNAL_TOKENS,
         .tokens = {.step = 1, .token = &(struct journal_token){.number = 5, .id = 7, .n_top = 1, .top = top}, .n = 1}},
        {.kind = JOURNAL_FINISH, .finish = {.number = 5, .tokens = 1, .message = {"end", 3}}},
    };
    struct why why;
    for (size_t i = 0; i < sizeof r / sizeof *r; i++) FUZZ_CHECK(journal_state_apply(s, &r[i], &why) >= 0);
}

void fuzz_seeds(fuzz_add add) {
    struct journal_state s;
    FUZZ_CHECK(journal_state_init(&s) >= 0);
    fill(&s);
    struct journal_bytes b = segment_of(&s);
    uint8_t *seed = malloc(b.len + 1);
    FUZZ_CHECK(seed);
    memcpy(seed + 1, b.data, b.len);
    for (uint8_t how = 0; how < 4; how++) {
        seed[0] = how;
        add(seed, b.len + 1);
    }
    free(seed);
    journal_bytes_clear(&b);
    journal_state_clear(&s);
}
