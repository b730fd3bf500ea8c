/* detokenizer.c - ids to text, at once or as a stream. Both run the same decoder, so that they cannot differ. */
#include <stdlib.h>

#include "model/text/tokenizer_parts.h"

struct detokenizer {
    const struct tokenizer *t;
    bool skip_special;
    struct decode_run *run;
};

int detokenizer_new(const struct tokenizer *t, bool skip_special, struct detokenizer **out) {
    struct detokenizer *d = calloc(1, sizeof *d);
    if (!d) return ERR_NOMEM;
    *d = (struct detokenizer){t, skip_special, decode_run_new(tokenizer_decoder(t))};
    if (!d->run) {
        free(d);
        return ERR_NOMEM;
    }
    *out = d;
    return 0;
}

void detokenizer_free(struct detokenizer *d) {
    if (!d) return;
    decode_run_free(d->run);
    free(d);
}

int detokenizer_push(struct detokenizer *d, int32_t id, struct text_buf *out) {
    size_t len;
    const char *s = tokenizer_decoded(d->t, id, d->skip_special, &len);
    return s ? decode_run_push(d->run, s, len, out) : 0;
}

int detokenizer_flush(struct detokenizer *d, struct text_buf *out) { return decode_run_flush(d->run, out); }

int tokenizer_decode(const struct tokenizer *t, const int32_t *ids, int n, bool skip_special, struct text_buf *out) {
    struct detokenizer *d;
    int rc = detokenizer_new(t, skip_special, &d);
    if (rc < 0) return rc;
    for (int i = 0; i < n && rc == 0; i++) rc = detokenizer_push(d, ids[i], out);
    if (rc == 0) rc = detokenizer_flush(d, out);
    detokenizer_free(d);
    return rc;
}
