/* fabric_case.c - see fabric_case.h. Size and bytes of a frame follow from (seed, source, destination, number). */
#include "tests/unit/fabric/fabric_case.h"

#include "base/clk.h"
#include "base/hash.h"

static uint64_t frame_draw(uint64_t seed, int from, int to, int number) {
    return hash_u64(hash_u64(seed + 1) ^ ((uint64_t)from << 48 | (uint64_t)to << 40 | (uint64_t)number));
}

static size_t frame_size(const struct fabric *f, uint64_t draw, bool repeats) {
    if (repeats) return 16 + (draw >> 8) % (f->frame_bytes - 15); /* never alike, or a repeat could not be told */
    return draw % 8 == 0 ? 0 : draw % 8 == 1 ? f->frame_bytes : (draw >> 8) % (f->frame_bytes + 1);
}

static void fill(unsigned char *p, size_t n, uint64_t draw) {
    for (size_t i = 0; i < n; i++) p[i] = (unsigned char)(draw >> (i % 8 * 8)) ^ (unsigned char)(i >> 3);
}

static bool same(const unsigned char *p, size_t n, uint64_t draw) {
    for (size_t i = 0; i < n; i++)
        if (p[i] != ((unsigned char)(draw >> (i % 8 * 8)) ^ (unsigned char)(i >> 3))) return false;
    return true;
}

static bool send_one(struct fabric *f, uint64_t seed, int to, int number, bool repeats) {
    uint64_t draw = frame_draw(seed, f->rank, to, number);
    size_t bytes = frame_size(f, draw, repeats),
           ask = draw >> 60 ? bytes : f->frame_bytes; /* commit may be smaller than reserve */
    void *room = fabric_reserve(f, to, ask);
    if (!room) return false;
    fill(room, bytes, draw);
    fabric_commit(f, to, bytes);
    return true;
}

/* Takes one frame: 1 when it is number `next`, 2 for a permitted repeat, 0 when there is none. */
static int take_one(struct fabric *f, uint64_t seed, int from, int next, bool repeats, struct why *why) {
    size_t bytes;
    const unsigned char *frame = fabric_take(f, from, &bytes);
    if (!frame) return 0;
    if ((uintptr_t)frame % 64) return fail(why, ERR_CORRUPT, "frame %d from %d is not aligned", next, from);
    uint64_t draw = frame_draw(seed, from, f->rank, next), before = frame_draw(seed, from, f->rank, next - 1);
    bool is_next = bytes == frame_size(f, draw, repeats) && same(frame, bytes, draw);
    bool is_repeat = repeats && next && bytes == frame_size(f, before, true) && same(frame, bytes, before);
    fabric_give(f, from, frame);
    if (is_next) return 1;
    return is_repeat ? 2 : fail(why, ERR_CORRUPT, "frame %d from %d has %zu bytes, or wrong ones", next, from, bytes);
}

int fabric_case_run(struct fabric *f, uint64_t seed, int frames, bool repeats, int64_t patience_us, struct why *why) {
    int sent[FABRIC_MAX_RANKS] = {0}, got[FABRIC_MAX_RANKS] = {0}, left = 2 * (f->size - 1) * frames;
    uint64_t turn = 0;
    int64_t deadline_us = clk_now_us() + patience_us;
    while (left) {
        bool moved = false, lazy = false;
        for (int p = 0; p < f->size; p++) {
            if (p == f->rank) continue;
            uint64_t mood = hash_u64(seed ^ ++turn ^ (uint64_t)f->rank << 32);
            lazy |= mood % 15 == 0;
            if (mood % 15 == 0) continue;
            if (sent[p] < frames && send_one(f, seed, p, sent[p], repeats)) sent[p]++, left--, moved = true;
            if (got[p] == frames) continue;
            int rc = take_one(f, seed, p, got[p], repeats, why);
            if (rc < 0) return rc;
            moved |= rc > 0;
            if (rc == 1) got[p]++, left--;
        }
        if (moved || lazy) continue; /* a wait only after looking at everyone */
        int rc = fabric_wait(f, deadline_us);
        if (rc < 0) return fail(why, rc, "rank %d: %d frames to go", f->rank, left);
    }
    return 0;
}
