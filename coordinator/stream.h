/* stream.h - one client's answer between the scheduler and the wire: tokens in, whole UTF-8 and token records out.
 *
 * Text is held back while it may still become something else: an unfinished character, or the beginning of a stop string. The
 * text ends before the first stop string; the token that completed it is the last one reported. What cannot be sent yet is
 * kept and merged, bounded by the request's own max_tokens; all of it is kept where a client may come back for it. Pure: it
 * neither sends nor knows calls. Owner: one thread. */
#pragma once
#include "coordinator/msg.h"
#include "model/text/tokenizer.h"

enum { STREAM_PIECE_TOKENS = 256 }; /* most tokens of one message */

struct stream_token {
    int32_t id;
    float logprob;
    int n_top;
    const struct top_token *top; /* [n_top]; set by stream_peek */
};
struct stream_piece {
    uint32_t first; /* index of token[0] in the answer */
    struct stream_token *token;
    int n;
    const char *text;
    size_t text_len;
};

struct stream;
/* stops are copied. tokenizer borrowed; NULL: no text, only ids. */
int stream_new(const struct tokenizer *tokenizer, const struct text_slice *stops, size_t n_stops, struct stream **out);
void stream_free(struct stream *s);
void stream_keep(struct stream *s); /* from now on what was sent stays, for stream_rewind; before the first token */
const struct text_slice *stream_stops(const struct stream *s, size_t *n);

/* Takes a token. 1: it completed a stop string, the answer is over; 0; or ERR_NOMEM. */
int stream_push(struct stream *s, const struct step_out *o);
/* No token follows: what was held back becomes certain (up to a stop string in it: then 1). */
int stream_finish(struct stream *s);

/* What may go out now; false: nothing. Valid until the next call. stream_sent takes it off. */
bool stream_peek(struct stream *s, struct stream_piece *out);
void stream_sent(struct stream *s, const struct stream_piece *piece);
/* What goes out next is token `tokens` and text from byte `text` on, also where the answer has not come so far yet. Of a stream
 * that keeps. */
void stream_rewind(struct stream *s, uint32_t tokens, size_t text);
uint32_t stream_tokens(const struct stream *s); /* pushed so far */
