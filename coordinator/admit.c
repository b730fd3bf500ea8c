/* admit.c - checks in the order in which a person wants to hear of them: the input, how to sample, how to stop. */
#include "coordinator/admit.h"

#include <math.h>
#include <string.h>

#include "base/utf8.h"

static int check_text(const char *what, struct text_slice t, struct why *why) {
    size_t at = utf8_valid_prefix(t.data, t.len);
    if (at < t.len)
        return fail(why, ERR_INVALID, "%s is not UTF-8: byte 0x%02x at offset %zu", what, (unsigned char)t.data[at], at);
    return 0;
}

static int check_ids(const char *what, const int32_t *ids, size_t n, int vocab, struct why *why) {
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= vocab)
            return fail(why, ERR_INVALID, "%s %zu is %d; the vocabulary has ids 0 to %d", what, i, ids[i], vocab - 1);
    return 0;
}

static int check_turns(const struct chat_turn *turns, size_t n, const struct admit_limits *l, struct why *why) {
    if (!l->has_template) return fail(why, ERR_UNSUPPORTED, "this checkpoint has no chat template; send a plain prompt");
    if (!n) return fail(why, ERR_INVALID, "the chat has no messages");
    if (n > ADMIT_TURNS) return fail(why, ERR_TOO_LARGE, "the chat has %zu messages; at most %d are accepted", n, ADMIT_TURNS);
    for (size_t i = 0; i < n; i++) {
        struct text_slice role = turns[i].role, content = turns[i].content;
        if (!role.len || role.len > ADMIT_ROLE_BYTES)
            return fail(why, ERR_INVALID, "message %zu has a role of %zu bytes; wanted 1 to %d", i, role.len, ADMIT_ROLE_BYTES);
        int rc = check_text("a message's role", role, why);
        if (rc >= 0) rc = check_text("a message's content", content, why);
        if (rc < 0) return rc;
        if (memchr(role.data, 0, role.len) || (content.len && memchr(content.data, 0, content.len)))
            return fail(why, ERR_INVALID, "message %zu contains a NUL byte", i);
    }
    return 0;
}

static int check_prompt(enum generate_input input, struct text_slice text, const struct admit_limits *l, struct why *why) {
    if (!l->has_tokenizer) return fail(why, ERR_UNSUPPORTED, "this cluster serves token ids only (--ids-only); send ids");
    if (input == INPUT_TEXT && !text.len) return fail(why, ERR_INVALID, "the prompt is empty");
    return check_text("the prompt", text, why);
}

static int check_input(const struct generate_request *r, const struct admit_limits *l, struct why *why) {
    switch (r->input) {
    case INPUT_TEXT: return check_prompt(INPUT_TEXT, r->prompt, l, why);
    case INPUT_CHAT: {
        int rc = check_prompt(INPUT_CHAT, (struct text_slice){"", 0}, l, why);
        return rc < 0 ? rc : check_turns(r->turns, r->n_turns, l, why);
    }
    case INPUT_IDS:
        if (!r->n_ids) return fail(why, ERR_INVALID, "the prompt is empty");
        if (r->n_ids > (size_t)l->max_context)
            return fail(why, ERR_TOO_LARGE, "the prompt has %zu tokens; this cluster's context is %d", r->n_ids,
                        l->max_context);
        return check_ids("prompt id", r->ids, r->n_ids, l->vocab, why);
    default: return fail(why, ERR_INVALID, "the request has no prompt, ids or chat");
    }
}

static int check_sampling(const struct sampling *s, struct why *why) {
    if (!isfinite(s->temperature) || s->temperature < 0)
        return fail(why, ERR_INVALID, "temperature %g: wanted 0 (greedy) or a positive number", (double)s->temperature);
    if (!(s->top_p >= 0 && s->top_p <= 1))
        return fail(why, ERR_INVALID, "top_p %g: wanted above 0, at most 1", (double)s->top_p);
    if (!(s->min_p >= 0 && s->min_p <= 1)) return fail(why, ERR_INVALID, "min_p %g: wanted 0 to 1", (double)s->min_p);
    if (s->top_k > INT32_MAX) return fail(why, ERR_INVALID, "top_k %u: wanted 0 (off) or a count of tokens", s->top_k);
    if (s->logprobs > MSG_MAX_TOP + 1)
        return fail(why, ERR_INVALID, "logprobs %u: at most %d alternatives can be reported", s->logprobs - 1, MSG_MAX_TOP);
    return 0;
}

static int check_stops(const struct generate_request *r, const struct admit_limits *l, struct why *why) {
    if (r->n_stop && !l->has_tokenizer)
        return fail(why, ERR_UNSUPPORTED, "stop strings need a tokenizer; this cluster serves token ids only");
    if (r->n_stop > ADMIT_STOPS)
        return fail(why, ERR_INVALID, "%zu stop strings; at most %d are accepted", r->n_stop, ADMIT_STOPS);
    for (size_t i = 0; i < r->n_stop; i++) {
        if (!r->stop[i].len || r->stop[i].len > ADMIT_STOP_BYTES)
            return fail(why, ERR_INVALID, "stop string %zu has %zu bytes; wanted 1 to %d", i, r->stop[i].len, ADMIT_STOP_BYTES);
        int rc = check_text("a stop string", r->stop[i], why);
        if (rc < 0) return rc;
    }
    if (r->n_stop_ids > ADMIT_STOP_IDS)
        return fail(why, ERR_INVALID, "%zu stop ids; at most %d are accepted", r->n_stop_ids, ADMIT_STOP_IDS);
    return check_ids("stop id", r->stop_ids, r->n_stop_ids, l->vocab, why);
}

int admit_generate(const struct generate_request *r, const struct admit_limits *l, struct why *why) {
    int rc = check_input(r, l, why);
    if (rc >= 0) rc = check_sampling(&r->sampling, why);
    if (rc >= 0) rc = check_stops(r, l, why);
    if (rc < 0) return rc;
    if (r->priority < -ADMIT_PRIORITY || r->priority > ADMIT_PRIORITY)
        return fail(why, ERR_INVALID, "priority %d: wanted %d to %d", r->priority, -ADMIT_PRIORITY, ADMIT_PRIORITY);
    if (r->tag.len > ADMIT_TAG_BYTES || r->tenant.len > ADMIT_TAG_BYTES)
        return fail(why, ERR_INVALID, "tag and tenant have at most %d bytes", ADMIT_TAG_BYTES);
    for (size_t i = 0; i < r->tag.len; i++)
        if ((unsigned char)r->tag.data[i] < ' ' || r->tag.data[i] == 0x7f)
            return fail(why, ERR_INVALID, "tag has a control character at byte %zu", i);
    return 0;
}

int admit_tokenize(const struct tokenize_request *r, const struct admit_limits *l, struct why *why) {
    int rc = check_prompt(r->input, r->text, l, why);
    return rc >= 0 && r->input == INPUT_CHAT ? check_turns(r->turns, r->n_turns, l, why) : rc;
}

struct sampling admit_sampling(const struct sampling *s) {
    struct sampling out = *s;
    if (out.top_p <= 0) out.top_p = 1;
    return out;
}
