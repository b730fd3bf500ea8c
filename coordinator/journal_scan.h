/* journal_scan.h - a segment's bytes: sealing records into their places, and reading them back out of what may have been torn
 * or damaged. Pure.
 *
 * A checksum covers a record's kind, length, payload, segment and offset: bytes that an earlier file left on the disk, or that
 * stood elsewhere in this one, are no records here.
 * Torn and damaged are told apart by how far the segment had been synced, which its header and its records say. After that
 * the power may have gone while the disk wrote blocks in any order: what is no record there was being written, and is left
 * out. Before it the disk has lost what it had promised to keep, and only a person may decide to go on. */
#pragma once
#include "coordinator/journal_record.h"

#define JOURNAL_MAGIC "CADREJNL"
enum { JOURNAL_VERSION = 1, JOURNAL_HEADER_BYTES = 64 };

struct journal_header {
    uint64_t segment, fingerprint; /* of the model */
    uint64_t base_bytes;           /* header and what was in the file when it got its name */
    int64_t created_us;            /* unix time */
};
void journal_make_header(const struct journal_header *h, uint8_t out[JOURNAL_HEADER_BYTES]);
/* Sets the checksums of the whole records in [data, data + len), which will stand at `offset` of `segment`. The count. */
size_t journal_seal(uint8_t *data, size_t len, uint64_t segment, uint64_t offset);

struct journal_visitor {
    /* Borrowed during the call. Negative ends the reading with that code and *why. */
    int (*record)(void *ctx, uint64_t offset, const struct journal_record *r, struct why *why);
    void *ctx;
};
struct journal_scan {
    struct journal_header header;
    uint64_t records, bytes;         /* bytes: up to the last good record's end */
    uint64_t synced;                 /* it was on the disk up to there */
    uint64_t cut_bytes, cut_at;      /* torn: what is no record after that, and where it begins */
    uint64_t damages, damaged_bytes; /* skipped, with repair; the first at: */
    uint64_t damaged_at;
};
/* repair: skip what is damaged. ERR_CORRUPT says where and what; *out is filled as far as it came. */
int journal_scan(const uint8_t *data, size_t len, bool repair, const struct journal_visitor *v, struct journal_scan *out,
                 struct why *why);
