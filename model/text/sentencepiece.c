/* sentencepiece.c - the file's protobuf by hand (five messages, a dozen fields), the models over its pieces, and its
 * normaliser.
 *
 * BPE merges any two neighbours that together are a piece, best score first: bpe_from_ranks. Unigram sums scores in f32. Pieces
 * of type CONTROL, UNKNOWN and BYTE are never found in text; those of type USER_DEFINED always are, before anything else; those
 * of type UNUSED take part in merging but come out as what they were merged from, and unigram does without them. */
#include "model/text/sentencepiece.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/text/utf8.h"

static const char *const file = "tokenizer.model";
static const char mark[] = "\xe2\x96\x81"; /* U+2581 stands for a blank */

/* ---- the wire format ---- */

struct wire {
    const char *at, *end;
};
struct field {
    uint64_t number, value; /* value of a varint; bits of a fixed32 */
    struct wire bytes;      /* of a length-delimited field */
    int kind;               /* wire type */
};

static bool read_varint(struct wire *w, uint64_t *out) {
    *out = 0;
    for (int shift = 0; shift < 64 && w->at < w->end; shift += 7) {
        unsigned char c = (unsigned char)*w->at++;
        *out |= (uint64_t)(c & 0x7f) << shift;
        if (!(c & 0x80)) return true;
    }
    return false;
}

/* 1: *f is the next field; 0: the end; -1: damaged. */
static int next_field(struct wire *w, struct field *f) {
    uint64_t key, len = 0;
    *f = (struct field){0};
    if (w->at == w->end) return 0;
    if (!read_varint(w, &key) || !(key >> 3)) return -1;
    f->number = key >> 3;
    f->kind = (int)(key & 7);
    switch (f->kind) {
    case 0: return read_varint(w, &f->value) ? 1 : -1;
    case 1: len = 8; break;
    case 5: len = 4; break;
    case 2:
        if (!read_varint(w, &len)) return -1;
        break;
    default: return -1;
    }
    if (len > (uint64_t)(w->end - w->at)) return -1;
    f->bytes = (struct wire){w->at, w->at + len};
    w->at += len;
    if (f->kind == 5)
        for (int i = 3; i >= 0; i--) f->value = f->value << 8 | (unsigned char)f->bytes.at[i];
    return 1;
}

bool spm_looks_like(const char *bytes, size_t len) { return len > 2 && bytes[0] == 0x0a; /* field 1, a piece */ }

static int read_piece(struct wire w, struct spm_piece *p) {
    struct field f;
    int rc;
    *p = (struct spm_piece){.s = "", .type = SPM_NORMAL};
    while ((rc = next_field(&w, &f)) == 1) {
        if (f.number == 1 && f.kind == 2) {
            p->s = f.bytes.at;
            p->len = (size_t)(f.bytes.end - f.bytes.at);
        } else if (f.number == 2 && f.kind == 5) {
            uint32_t bits = (uint32_t)f.value;
            memcpy(&p->score, &bits, sizeof bits);
        } else if (f.number == 3 && f.kind == 0) {
            p->type = (enum spm_type)(f.value <= SPM_BYTE ? f.value : 0);
        }
    }
    return rc;
}

static int read_trainer(struct wire w, struct spm *m) {
    struct field f;
    int rc;
    while ((rc = next_field(&w, &f)) == 1) {
        if (f.kind) continue;
        int64_t v = (int64_t)f.value;
        switch (f.number) {
        case 3: m->model_type = f.value < 100 ? (int)f.value : 99; break;
        case 24: m->normal.suffix = f.value; break;
        case 35: m->byte_fallback = f.value; break;
        case 40: m->unk = v; break;
        case 41: m->bos = v; break;
        case 42: m->eos = v; break;
        default: break;
        }
    }
    return rc;
}

static int read_normalizer(struct wire w, struct spm *m, struct why *why) {
    struct field f;
    int rc;
    while ((rc = next_field(&w, &f)) == 1) {
        if (f.number == 2 && f.kind == 2) {
            charsmap_close(&m->normal.map);
            int bad = charsmap_open(&m->normal.map, f.bytes.at, (size_t)(f.bytes.end - f.bytes.at), why);
            if (bad < 0) return bad;
        } else if (!f.kind && f.number == 3) {
            m->normal.dummy_prefix = f.value;
        } else if (!f.kind && f.number == 4) {
            m->normal.remove_extra = f.value;
        } else if (!f.kind && f.number == 5) {
            m->normal.escape = f.value;
        }
    }
    return rc < 0 ? fail(why, ERR_CORRUPT, "%s: the normaliser's part is damaged", file) : 0;
}

static int check(const struct spm *m, struct why *why) {
    if (!m->n) return fail(why, ERR_CORRUPT, "%s has no pieces", file);
    if (m->model_type != 1 && m->model_type != 2)
        return fail(why, ERR_UNSUPPORTED, "%s: model type %d is not known; unigram (1) and BPE (2) are", file, m->model_type);
    for (size_t i = 0; i < m->n; i++) {
        const struct spm_piece *p = &m->piece[i];
        if (!p->len || utf8_valid_prefix(p->s, p->len) != p->len || !p->type)
            return fail(why, ERR_CORRUPT, "%s: piece %zu is empty, not UTF-8, or of no known type", file, i);
        if (!isfinite(p->score)) return fail(why, ERR_CORRUPT, "%s: the score of piece %zu is not a number", file, i);
    }
    if (m->unk < 0 || m->unk >= (int64_t)m->n || m->piece[m->unk].type != SPM_UNKNOWN)
        return fail(why, ERR_CORRUPT, "%s: unk_id %lld is not the unknown piece", file, (long long)m->unk);
    return 0;
}

/* The pieces that are found before anything else; the trie stays empty when there are none. */
static int user_defined(const struct spm *m, struct trie *t) {
    size_t bytes = 0;
    for (size_t i = 0; i < m->n; i++)
        if (m->piece[i].type == SPM_USER_DEFINED) bytes += m->piece[i].len;
    if (bytes && trie_open(t, bytes) < 0) return ERR_NOMEM;
    for (size_t i = 0; i < m->n && bytes; i++)
        if (m->piece[i].type == SPM_USER_DEFINED) trie_add(t, m->piece[i].s, m->piece[i].len, (int32_t)i, true);
    return 0;
}

int spm_read(const char *bytes, size_t len, struct spm *m, struct why *why) {
    struct field f;
    int rc;
    *m = (struct spm){
        .model_type = 1, .bos = 1, .eos = 2, .normal = {.dummy_prefix = true, .remove_extra = true, .escape = true}};
    size_t n = 0;
    for (struct wire w = {bytes, bytes + len}; (rc = next_field(&w, &f)) == 1;) n += f.number == 1 && f.kind == 2;
    if (rc < 0) return fail(why, ERR_CORRUPT, "%s is neither a whole SentencePiece model nor a tiktoken file", file);
    if (n > VOCAB_MAX_ID) return fail(why, ERR_TOO_LARGE, "%s has %zu pieces; at most %d are read", file, n, VOCAB_MAX_ID);
    m->piece = calloc(n + 1, sizeof *m->piece);
    if (!m->piece) return fail(why, ERR_NOMEM, "%s: out of memory", file);
    for (struct wire w = {bytes, bytes + len}; next_field(&w, &f) == 1;) {
        if (f.kind != 2) continue;
        rc = 0;
        if (f.number == 1) rc = read_piece(f.bytes, &m->piece[m->n++]);
        if (f.number == 2) rc = read_trainer(f.bytes, m);
        if (rc < 0) return fail(why, ERR_CORRUPT, "%s: a piece or the trainer's part is damaged", file);
        if (f.number == 3 && (rc = read_normalizer(f.bytes, m, why)) < 0) return rc;
    }
    if (m->bos >= (int64_t)m->n) m->bos = -1; /* the format's defaults, which a small model need not have */
    if (m->eos >= (int64_t)m->n) m->eos = -1;
    rc = check(m, why);
    if (rc == 0 && user_defined(m, &m->normal.user) < 0) rc = fail(why, ERR_NOMEM, "%s: out of memory", file);
    return rc;
}

void spm_clear(struct spm *m) {
    free(m->piece);
    spm_normal_clear(&m->normal);
    *m = (struct spm){0};
}

/* ---- the models ---- */

struct ranked {
    float score;
    int32_t id;
};

static int by_score(const void *x, const void *y) {
    const struct ranked *a = x, *b = y;
    return a->score > b->score ? -1 : a->score < b->score ? 1 : a->id < b->id ? -1 : a->id > b->id;
}

/* Ranks of the pieces that come of merging: best score first, equal scores equal. */
static int rank_pieces(const struct spm *m, int32_t *rank) {
    struct ranked *order = malloc(m->n * sizeof *order);
    size_t n = 0;
    if (!order) return ERR_NOMEM;
    for (size_t i = 0; i < m->n; i++) {
        enum spm_type type = m->piece[i].type;
        rank[i] = type == SPM_USER_DEFINED ? BPE_APART : BPE_NO_RESULT;
        if (type == SPM_NORMAL || type == SPM_UNUSED) order[n++] = (struct ranked){m->piece[i].score, (int32_t)i};
    }
    qsort(order, n, sizeof *order, by_score);
    for (size_t i = 0; i < n; i++)
        rank[order[i].id] = i && order[i].score == order[i - 1].score ? rank[order[i - 1].id] : (int32_t)i;
    free(order);
    return 0;
}

static int mark_unused(const struct spm *m, struct bpe *b) {
    for (size_t i = 0; i < m->n; i++) {
        if (m->piece[i].type != SPM_UNUSED) continue;
        if (!b->unused && !(b->unused = calloc(m->n, sizeof *b->unused))) return ERR_NOMEM;
        b->unused[i] = true;
    }
    return 0;
}

static int bpe_model(const struct spm *m, struct subword *out) {
    struct bpe *b = &out->bpe;
    out->kind = SUBWORD_BPE;
    b->unk = (int32_t)m->unk;
    b->fuse_unk = true;
    b->byte_fallback = m->byte_fallback;
    int32_t *rank = malloc(m->n * sizeof *rank);
    int rc = rank && rank_pieces(m, rank) == 0 ? bpe_from_ranks(&out->vocab, rank, b) : ERR_NOMEM;
    free(rank);
    if (rc == 0) rc = mark_unused(m, b);
    return rc < 0 ? rc : user_defined(m, &b->atoms);
}

static int unigram_model(const struct spm *m, struct subword *out) {
    struct unigram *u = &out->unigram;
    double *score = malloc(m->n * sizeof *score);
    float lowest = INFINITY;
    out->kind = SUBWORD_UNIGRAM;
    if (!score) return ERR_NOMEM;
    for (size_t i = 0; i < m->n; i++) {
        const struct spm_piece *p = &m->piece[i];
        score[i] = p->type == SPM_NORMAL ? (double)p->score : (double)NAN;
        if (p->type == SPM_NORMAL && p->score < lowest) lowest = p->score;
    }
    for (size_t i = 0; i < m->n; i++) /* better than nothing, so it wins against whatever else spells it */
        if (m->piece[i].type == SPM_USER_DEFINED) score[i] = 0.1f * (float)(m->piece[i].len - 1);
    u->unk = (int32_t)m->unk;
    u->byte_fallback = m->byte_fallback;
    u->single = true;
    int rc = unigram_from_scores(&out->vocab, score, u);
    u->unk_score = (float)(lowest - 10.0f);
    return rc;
}

int spm_model(const struct spm *m, struct subword *out, struct why *why) {
    size_t bytes = 0;
    for (size_t i = 0; i < m->n; i++) bytes += m->piece[i].len;
    int rc = vocab_open(&out->vocab, m->n, bytes, m->n);
    for (size_t i = 0; i < m->n && rc == 0; i++) {
        const struct spm_piece *p = &m->piece[i];
        if (vocab_id(&out->vocab, p->s, p->len) >= 0) return fail(why, ERR_CORRUPT, "%s: piece %zu is there twice", file, i);
        rc = vocab_put(&out->vocab, (int32_t)i, p->s, p->len, 0);
    }
    if (rc == 0) rc = m->model_type == 2 ? bpe_model(m, out) : unigram_model(m, out);
    return rc < 0 ? fail(why, rc, "%s: out of memory", file) : 0;
}

/* ---- normalising ---- */

void spm_normal_clear(struct spm_normal *n) {
    charsmap_close(&n->map);
    trie_close(&n->user);
}

struct normal_run {
    const struct spm_normal *n;
    struct text_buf *out;
    bool space; /* what was put out last ended in a blank that swallows the next */
};

/* The normal form of the next piece of input, and the bytes it takes. */
static const char *next_form(const struct spm_normal *n, const char *s, size_t len, size_t *taken, size_t *form_len) {
    uint32_t cp;
    if (n->user.edge && trie_longest(&n->user, s, len, taken) >= 0) {
        *form_len = *taken;
        return s;
    }
    const char *form = charsmap_find(&n->map, s, len, true, taken);
    *form_len = form ? strlen(form) : 0;
    if (form) return form;
    *form_len = *taken = (size_t)utf8_next(s, &cp);
    return s;
}

static int put_form(struct normal_run *r, const char *s, size_t len) {
    while (r->space && len && *s == ' ') {
        s++;
        len--;
    }
    if (!len) return 0;
    r->space = r->n->remove_extra && s[len - 1] == ' ';
    while (len) {
        const char *blank = r->n->escape ? memchr(s, ' ', len) : NULL;
        size_t plain = blank ? (size_t)(blank - s) : len;
        if (text_buf_append(r->out, s, plain) < 0) return ERR_NOMEM;
        if (blank && text_buf_append(r->out, mark, 3) < 0) return ERR_NOMEM;
        s += plain + (blank != NULL);
        len -= plain + (blank != NULL);
    }
    return 0;
}

int spm_normalize(const struct spm_normal *n, const char *s, size_t len, bool first, struct text_buf *out) {
    struct normal_run r = {.n = n, .out = out, .space = n->remove_extra};
    const char *blank = n->escape ? mark : " ";
    size_t at = 0, taken, form_len, blank_len = n->escape ? 3 : 1;
    bool prefix = n->dummy_prefix && (first || !n->first_only);
    for (; n->remove_extra && at < len; at += taken) {
        const char *form = next_form(n, s + at, len - at, &taken, &form_len);
        if (form_len != 1 || *form != ' ') break;
    }
    if (at == len) return 0;
    if (prefix && !n->suffix && text_buf_append(out, blank, blank_len) < 0) return ERR_NOMEM;
    for (; at < len; at += taken) {
        const char *form = next_form(n, s + at, len - at, &taken, &form_len);
        if (put_form(&r, form, form_len) < 0) return ERR_NOMEM;
    }
    if (n->remove_extra)
        while (out->len >= blank_len && !memcmp(out->data + out->len - blank_len, blank, blank_len)) out->len -= blank_len;
    if (prefix && n->suffix && text_buf_append(out, blank, blank_len) < 0) return ERR_NOMEM;
    return 0;
}
