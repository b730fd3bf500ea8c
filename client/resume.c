/* resume.c - answers that survive their connection. What the application has taken is counted as it takes it; what waits in
 * the queue is read when it matters. A stream that is lost asks for the rest under a new call id, or, had it heard of nothing
 * yet, says its Generate again under the same one: so the server knows it from a second request (docs/PROTOCOL.md, Resume). */
#include "base/clk.h"
#include "client/client.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum { AGAIN_US = 500 * 1000 };

void resume_note(struct resume_progress *p, const struct cadre_event *e) {
    p->text_bytes += e->text_len;
    if (e->kind == CADRE_STARTED) p->started = true, p->resumable = e->resumable;
    else if (e->kind == CADRE_TOKENS) p->tokens = e->first + (uint32_t)e->n_tokens;
    else if (e->kind == CADRE_FINISHED) p->finished = true;
}

/* What has arrived, taken or not. False: it cannot be read. */
static bool count(struct cadre_stream *s, struct resume_progress *p) {
    struct arena arena;
    struct list *i, *tmp;
    bool good = true;
    *p = s->taken;
    arena_init(&arena, 4 << 10);
    list_for(i, tmp, &s->items) {
        const struct item *item = list_entry(i, struct item, node);
        struct cadre_event e;
        void *hold = NULL;
        arena_reset(&arena);
        if (port_decode_event(item->bytes, item->len, &arena, &e, &hold)) good = false;
        else resume_note(p, &e);
        port_release(hold);
    }
    arena_clear(&arena);
    return good;
}

static int ask_for_rest(struct cadre_stream *s, const struct resume_progress *p) {
    uint8_t id[FRAME_CALL_ID_BYTES];
    size_t len;
    if (getrandom(id, sizeof id, 0) != sizeof id) return CADRE_INTERNAL;
    uint8_t *bytes = port_encode_resume(s->request_id, p, &len);
    int rc = bytes ? stream_reopen(s, "Resume", id, bytes, len) : CADRE_RESOURCE_EXHAUSTED;
    free(bytes);
    return rc;
}

static void set_lost(struct cadre_stream *s) {
    if (!s->lost) s->lost_us = clk_now_us();
    s->lost = true;
    s->again_us = 0;
}

enum resume_verdict resume_lost(struct cadre_stream *s) {
    struct resume_progress p;
    if (!s->generate || s->cancelled || !count(s, &p)) return RESUME_NOT;
    if (p.finished) return RESUME_COMPLETE; /* only its End is missing */
    if (s->got_data && !p.resumable) return RESUME_NOT;
    set_lost(s);
    int rc = s->got_data ? ask_for_rest(s, &p) : stream_reopen(s, "Generate", s->id, s->payload, s->payload_len);
    if (rc) s->again_us = clk_now_us() + AGAIN_US; /* the queue is full of what was said to servers that died */
    return RESUME_ASKED;
}

/* A server that ends, or has lost its workers, says UNAVAILABLE and remembers what it keeps: the next one goes on with it. A
 * request that is said again may come to a server that is just starting: that is no reason to lose it. */
bool resume_later(struct cadre_stream *s, uint32_t status, const char *message) {
    struct resume_progress p;
    if (status != CADRE_UNAVAILABLE || !s->generate || s->cancelled || !count(s, &p)) return false;
    if (s->got_data ? !p.resumable || p.finished : !s->lost) return false;
    set_lost(s);
    s->again_us = clk_now_us() + AGAIN_US;
    free(s->message);
    s->message = strdup(message);
    return true;
}
