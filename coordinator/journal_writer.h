/* journal_writer.h - the journal's thread: takes buffers of records, gives them back when they are written. Between journal.c
 * and the disk; nobody else includes it. */
#pragma once
#include "coordinator/journal.h"

struct journal_progress { /* since the start */
    uint64_t bytes, syncs, segments, segment_bytes, live;
};
enum journal_news_kind {
    JOURNAL_NEWS_WRITTEN, /* the buffer in hand; it is the owner's again, and empty */
    JOURNAL_NEWS_SYNCED,  /* with no buffer in hand */
    JOURNAL_NEWS_FAILED
};
struct journal_news {
    enum journal_news_kind kind;
    struct why why; /* FAILED */
    struct journal_progress progress;
};

struct journal_writer;
/* segment and state are the thread's until journal_writer_close; options are copied. */
int journal_writer_open(const struct journal_options *o, struct journal_segment *segment, struct journal_state *state,
                        struct journal_writer **out, struct why *why);
/* One at a time: not again before WRITTEN. */
void journal_writer_give(struct journal_writer *w, struct journal_bytes *buffer);
bool journal_writer_news(struct journal_writer *w, struct journal_news *out); /* false: none */
int journal_writer_fd(const struct journal_writer *w);                        /* readable when there is news */
/* Waits for the thread to write what it has, and then `rest` (or NULL), and to sync; each is tried once. */
void journal_writer_close(struct journal_writer *w, struct journal_bytes *rest);
