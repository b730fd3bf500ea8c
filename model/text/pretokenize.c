/* pretokenize.c - the stages at work.
 *
 * Most stages find matches and then cut the text by one of five behaviours; the cutter below is a small state machine that sees
 * matches and the gaps between them in order and holds back at most one piece. The others (byte-level, metaspace) also rewrite
 * the text, into buffers of their own stage. An empty piece is dropped everywhere. */
#include "model/text/pretokenize.h"

#include <stdlib.h>
#include <string.h>

#include "model/text/byte_level.h"
#include "model/text/pre_stage.h"
#include "model/text/unicode.h"
#include "model/text/utf8.h"

struct piece {
    const char *s;
    size_t len, origin;
};
struct run {
    const struct pretokenizer *p;
    struct pre_work *w;
};

static int run_from(struct run *r, int k, struct piece in);

struct cutter {
    struct run *r;
    int next; /* the stage that gets the pieces */
    struct piece in;
    enum pre_behaviour behaviour;
    bool invert;
    struct text_buf *bytes; /* when set, pieces go on in the byte-level alphabet, written here */
    size_t from, to;        /* the piece held back, if held */
    bool held, held_match;
    bool was_match;
};

static int cut_out(struct cutter *c, size_t from, size_t to) {
    if (from == to) return 0;
    size_t origin = c->in.origin < to ? c->in.origin : to;
    struct piece out = {c->in.s + from, to - from, origin > from ? origin - from : 0};
    if (c->bytes) {
        c->bytes->len = 0;
        if (byte_level_append(c->bytes, out.s, out.len) < 0) return ERR_NOMEM;
        origin = 0; /* each byte has become one or two */
        for (size_t i = 0; i < out.origin; i++) origin += byte_level_char((unsigned char)out.s[i]) < 0x80 ? 1 : 2;
        out = (struct piece){c->bytes->data, c->bytes->len, origin};
    }
    return run_from(c->r, c->next, out);
}

static int cut_flush(struct cutter *c) {
    if (!c->held) return 0;
    c->held = false;
    return cut_out(c, c->from, c->to);
}

static int cut_hold(struct cutter *c, size_t from, size_t to) {
    int rc = cut_flush(c);
    c->held = true;
    c->from = from;
    c->to = to;
    return rc;
}

static int cut_see(struct cutter *c, size_t from, size_t to, bool match) {
    match ^= c->invert;
    bool was = c->was_match;
    c->was_match = match;
    switch (c->behaviour) {
    case PRE_ISOLATED: return cut_out(c, from, to);
    case PRE_REMOVED: return match ? 0 : cut_out(c, from, to);
    case PRE_CONTIGUOUS:
        if (match != was || !c->held) return cut_hold(c, from, to);
        c->to = to;
        return 0;
    case PRE_WITH_PREVIOUS:
        if (!match || was || !c->held) return cut_hold(c, from, to);
        c->to = to;
        return 0;
    case PRE_WITH_NEXT: /* only a match waits, for a gap to join */
        if (!match && c->held) {
            c->held = false;
            return cut_out(c, c->from, to);
        }
        return match ? cut_hold(c, from, to) : cut_out(c, from, to);
    }
    return 0;
}

static int cut_pattern(struct cutter *c, const struct pattern *p, struct pattern_scratch *scratch) {
    struct pattern_scan scan = {.pattern = p, .scratch = scratch, .text = c->in.s, .len = c->in.len};
    size_t start, end, done = 0;
    int rc;
    while ((rc = pattern_next(&scan, &start, &end)) == 1) {
        if (done != start && (rc = cut_see(c, done, start, false)) < 0) return rc;
        if ((rc = cut_see(c, start, end, true)) < 0) return rc;
        done = end;
    }
    if (rc == 0 && done != c->in.len) rc = cut_see(c, done, c->in.len, false);
    return rc < 0 ? rc : cut_flush(c);
}

static bool is_class(const struct pre_stage *s, uint32_t cp) {
    switch (s->class) {
    case PRE_NUMERIC: return unicode_is_numeric(cp);
    case PRE_PUNCT: return unicode_is_punct(cp);
    case PRE_SPACE: return unicode_is_space(cp);
    case PRE_CHAR: return cp == s->ch;
    }
    return false;
}

static int cut_class(struct cutter *c, const struct pre_stage *s) {
    size_t done = 0;
    int rc = 0;
    for (size_t i = 0; i < c->in.len && rc == 0;) {
        uint32_t cp;
        size_t n = (size_t)utf8_next(c->in.s + i, &cp);
        if (is_class(s, cp)) {
            if (done != i) rc = cut_see(c, done, i, false);
            if (rc == 0) rc = cut_see(c, i, i + n, true);
            done = i + n;
        }
        i += n;
    }
    if (rc == 0 && done != c->in.len) rc = cut_see(c, done, c->in.len, false);
    return rc < 0 ? rc : cut_flush(c);
}

static int cut_fixed(struct cutter *c, int64_t chars) {
    int rc = 0;
    for (size_t at = 0, end = 0; at < c->in.len && rc == 0; at = end) {
        uint32_t cp;
        for (int64_t i = 0; i < chars && end < c->in.len; i++) end += (size_t)utf8_next(c->in.s + end, &cp);
        rc = cut_out(c, at, end);
    }
    return rc;
}

/* The stage's text buffer becomes prefix + s, and *in describes it. */
static int prepend(struct text_buf *b, const char *prefix, size_t prefix_len, struct piece *in) {
    b->len = 0;
    int rc = text_buf_append(b, prefix, prefix_len);
    if (rc == 0) rc = text_buf_append(b, in->s, in->len);
    *in = (struct piece){b->data, b->len, in->origin ? in->origin + prefix_len : 0};
    return rc;
}

/* Cuts with GPT-2's pattern when the stage has one; the pieces, as byte-level characters, go on. */
static int run_bytes(struct run *r, int k, struct piece in) {
    const struct pre_stage *s = &r->p->stages[k];
    if (s->add_prefix_space && in.s[0] != ' ' && prepend(&r->w->stage[k].text, " ", 1, &in) < 0) return ERR_NOMEM;
    struct cutter c = {.r = r, .next = k + 1, .in = in, .behaviour = PRE_ISOLATED, .bytes = &r->w->stage[k].piece};
    return s->pattern ? cut_pattern(&c, s->pattern, &r->w->stage[k].scratch) : cut_out(&c, 0, in.len);
}

static int run_metaspace(struct run *r, int k, struct piece in) {
    const struct pre_stage *s = &r->p->stages[k];
    struct text_buf *b = &r->w->stage[k].text;
    b->len = 0;
    bool marked = in.s[0] == ' ' || (in.len >= s->mark_len && !memcmp(in.s, s->mark, s->mark_len));
    bool mark = !marked && (s->scheme == PRE_ALWAYS || (s->scheme == PRE_FIRST && in.origin));
    if (mark && text_buf_append(b, s->mark, s->mark_len) < 0) return ERR_NOMEM;
    size_t origin = mark && in.origin ? s->mark_len : 0;
    for (size_t i = 0; i < in.origin; i++) origin += in.s[i] == ' ' ? s->mark_len : 1;
    for (size_t i = 0; i < in.len;) {
        const char *space = memchr(in.s + i, ' ', in.len - i);
        size_t end = space ? (size_t)(space - in.s) : in.len;
        if (text_buf_append(b, in.s + i, end - i) < 0) return ERR_NOMEM;
        if (space && text_buf_append(b, s->mark, s->mark_len) < 0) return ERR_NOMEM;
        i = end + (space != NULL);
    }
    struct piece out = {b->data, b->len, origin};
    if (!s->split) return run_from(r, k + 1, out);
    struct cutter c = {.r = r, .next = k + 1, .in = out, .behaviour = PRE_WITH_NEXT};
    struct pre_stage marks = {.class = PRE_CHAR, .ch = s->ch};
    return cut_class(&c, &marks);
}

static int run_from(struct run *r, int k, struct piece in) {
    if (!in.len) return 0;
    if (k == r->p->n) return r->w->word(r->w->user, in.s, in.len);
    const struct pre_stage *s = &r->p->stages[k];
    struct cutter c = {.r = r, .next = k + 1, .in = in, .behaviour = s->behaviour, .invert = s->invert};
    switch (s->kind) {
    case PRE_SPLIT: return cut_pattern(&c, s->pattern, &r->w->stage[k].scratch);
    case PRE_CLASS: return cut_class(&c, s);
    case PRE_BYTES: return run_bytes(r, k, in);
    case PRE_METASPACE: return run_metaspace(r, k, in);
    case PRE_FIXED: return cut_fixed(&c, s->chars);
    }
    return 0;
}

int pretokenizer_run(const struct pretokenizer *p, struct pre_work *w, const char *s, size_t len, size_t origin) {
    struct run r = {p, w};
    return run_from(&r, 0, (struct piece){s, len, origin});
}

void pre_work_clear(struct pre_work *w) {
    for (int i = 0; i < PIPELINE_MAX_STAGES; i++) {
        pattern_scratch_clear(&w->stage[i].scratch);
        text_buf_clear(&w->stage[i].text);
        text_buf_clear(&w->stage[i].piece);
    }
}
