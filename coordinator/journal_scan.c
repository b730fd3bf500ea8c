/* journal_scan.c - one walk over a segment. */
#include "coordinator/journal_scan.h"

#include "base/hash.h"

#include <endian.h>
#include <inttypes.h>
#include <string.h>
#include <xxhash.h>

enum { SUM_AT = JOURNAL_HEADER_BYTES - 8, BLOCK_BYTES = 1 << 16 };

static uint64_t seed_of(uint64_t segment, uint64_t offset, struct journal_head h) {
    return hash_u64(hash_u64(hash_u64(segment + 1) + offset) + ((uint64_t)h.kind << 32 | h.len));
}

static uint64_t sum_of(const uint8_t *at, struct journal_head h, uint64_t segment, uint64_t offset) {
    return XXH3_64bits_withSeed(at + JOURNAL_HEAD_BYTES, h.len, seed_of(segment, offset, h));
}

size_t journal_seal(uint8_t *data, size_t len, uint64_t segment, uint64_t offset) {
    size_t n = 0;
    for (size_t at = 0; at < len; n++) {
        struct journal_head h = journal_get_head(data + at);
        journal_put_sum(data + at, sum_of(data + at, h, segment, offset + at));
        at += JOURNAL_HEAD_BYTES + h.len;
    }
    return n;
}

/* ---- the header ---- */
static void put_u64(uint8_t *at, uint64_t v) {
    v = htole64(v);
    memcpy(at, &v, sizeof v);
}
static uint64_t get_u64(const uint8_t *at) {
    uint64_t v;
    memcpy(&v, at, sizeof v);
    return le64toh(v);
}

void journal_make_header(const struct journal_header *h, uint8_t out[JOURNAL_HEADER_BYTES]) {
    memset(out, 0, JOURNAL_HEADER_BYTES);
    memcpy(out, JOURNAL_MAGIC, 8);
    put_u64(out + 8, JOURNAL_VERSION | (uint64_t)JOURNAL_HEADER_BYTES << 32);
    put_u64(out + 16, h->segment);
    put_u64(out + 24, h->fingerprint);
    put_u64(out + 32, h->base_bytes);
    put_u64(out + 40, (uint64_t)h->created_us);
    put_u64(out + SUM_AT, XXH3_64bits(out, SUM_AT));
}

static int read_header(const uint8_t *data, size_t len, struct journal_header *h, struct why *why) {
    if (len < JOURNAL_HEADER_BYTES || memcmp(data, JOURNAL_MAGIC, 8) != 0)
        return fail(why, ERR_CORRUPT, "not a journal: its first bytes are not %s", JOURNAL_MAGIC);
    uint64_t version = get_u64(data + 8);
    if (get_u64(data + SUM_AT) != XXH3_64bits(data, SUM_AT))
        return fail(why, ERR_CORRUPT, "its header is damaged: the checksum is wrong");
    if (version != (JOURNAL_VERSION | (uint64_t)JOURNAL_HEADER_BYTES << 32))
        return fail(why, ERR_UNSUPPORTED, "a journal of version %" PRIu32 "; this program knows version %d", (uint32_t)version,
                    JOURNAL_VERSION);
    *h = (struct journal_header){.segment = get_u64(data + 16),
                                 .fingerprint = get_u64(data + 24),
                                 .base_bytes = get_u64(data + 32),
                                 .created_us = (int64_t)get_u64(data + 40)};
    return 0;
}

/* ---- records ---- */
struct walk {
    const uint8_t *data;
    size_t len, at;
    uint64_t hash_budget; /* bytes that may be hashed in search of a record behind a bad place */
    struct journal_scan *out;
    const struct journal_visitor *visitor;
    struct arena arena;
};

static bool plausible(const struct walk *w, size_t at, struct journal_head *h) {
    if (w->len - at < JOURNAL_HEAD_BYTES) return false;
    *h = journal_get_head(w->data + at);
    return h->kind >= 1 && h->kind < JOURNAL_KINDS && h->len <= JOURNAL_RECORD_BYTES &&
           h->len <= w->len - at - JOURNAL_HEAD_BYTES;
}

static bool good(const struct walk *w, size_t at, struct journal_head *h) {
    return plausible(w, at, h) && sum_of(w->data + at, *h, w->out->header.segment, at) == h->sum;
}

/* Where the next whole record begins; len: nowhere. Bytes made to look like many large records are taken for damage. */
static size_t next_record(struct walk *w, size_t at) {
    struct journal_head h;
    for (; at < w->len; at++) {
        if (!plausible(w, at, &h)) continue;
        if (h.len > w->hash_budget) return at;
        w->hash_budget -= h.len;
        if (good(w, at, &h)) return at;
    }
    return at;
}

static int take_record(struct walk *w, struct journal_head h, struct why *why) {
    struct journal_record r;
    arena_reset(&w->arena);
    int rc = journal_decode(h.kind, w->data + w->at + JOURNAL_HEAD_BYTES, h.len, &w->arena, &r, why);
    if (rc >= 0) rc = w->visitor->record(w->visitor->ctx, w->at, &r, why);
    return rc < 0 ? fail_in(why, rc, "at offset %zu", w->at) : rc;
}

/* At a place that is no record. 0: skipped or the end. */
static int take_damage(struct walk *w, bool repair, struct why *why) {
    size_t next = next_record(w, w->at + 1);
    bool torn = w->at >= w->out->synced;
    if (!torn && !repair)
        return fail(why, ERR_CORRUPT,
                    "%zu bytes at offset %zu are damaged, and had been synced; --journal-repair goes on without them",
                    next - w->at, w->at);
    if (torn) {
        if (!w->out->cut_bytes) w->out->cut_at = w->at;
        w->out->cut_bytes += next - w->at;
    } else {
        if (!w->out->damages++) w->out->damaged_at = w->at;
        w->out->damaged_bytes += next - w->at;
    }
    w->at = next;
    return 0;
}

/* How far it had been synced: what a record says of the bytes before itself, also where some of those are damaged. */
static uint64_t find_synced(struct walk w) {
    uint64_t synced = w.out->header.base_bytes;
    while (w.at < w.len) {
        struct journal_head h;
        if (!good(&w, w.at, &h)) {
            w.at = next_record(&w, w.at + 1);
            continue;
        }
        uint64_t says = h.kind == JOURNAL_SYNCED && h.len == sizeof says ? get_u64(w.data + w.at + JOURNAL_HEAD_BYTES) : 0;
        if (says > synced && says <= w.at) synced = says;
        w.at += JOURNAL_HEAD_BYTES + h.len;
    }
    return synced;
}

int journal_scan(const uint8_t *data, size_t len, bool repair, const struct journal_visitor *v, struct journal_scan *out,
                 struct why *why) {
    struct walk w = {
        .data = data, .len = len, .at = JOURNAL_HEADER_BYTES, .hash_budget = 16 * (uint64_t)len, .out = out, .visitor = v};
    memset(out, 0, sizeof *out);
    int rc = read_header(data, len, &out->header, why);
    if (rc >= 0) {
        out->bytes = JOURNAL_HEADER_BYTES;
        out->synced = find_synced(w);
    }
    arena_init(&w.arena, BLOCK_BYTES);
    while (rc >= 0 && w.at < len) {
        struct journal_head h;
        if (!good(&w, w.at, &h)) {
            rc = take_damage(&w, repair, why);
            continue;
        }
        rc = take_record(&w, h, why);
        w.at += JOURNAL_HEAD_BYTES + h.len;
        if (rc < 0) break;
        out->records++;
        out->bytes = w.at;
    }
    arena_clear(&w.arena);
    if (rc >= 0 && !out->damages && out->bytes < out->header.base_bytes)
        rc = fail(why, ERR_CORRUPT, "%" PRIu64 " of %" PRIu64 " bytes that had been synced are missing at its end",
                  out->header.base_bytes - out->bytes, out->header.base_bytes);
    return rc;
}
