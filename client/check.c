/* check.c - refuses a request that cannot mean anything before it travels. The server checks again: it trusts nobody. */
#include "base/utf8.h"
#include "client/client.h"

#include <math.h>
#include <string.h>

enum { MOST_STOPS = 16, MOST_LOGPROBS = 20 };

static int check_text(struct cadre_client *c, const char *what, const char *text, size_t len) {
    if (!len) len = strlen(text);
    size_t good = utf8_valid_prefix(text, len);
    if (good == len) return CADRE_OK;
    return client_fail(c, CADRE_INVALID_ARGUMENT, "%s is not valid UTF-8: byte %zu is 0x%02x", what, good,
                       (unsigned char)text[good]);
}

int check_input(struct cadre_client *c, const struct cadre_request *r) {
    if (!!r->prompt + !!r->ids + !!r->messages != 1)
        return client_fail(c, CADRE_INVALID_ARGUMENT, "a request needs exactly one of prompt, ids and messages");
    if (r->prompt) return check_text(c, "the prompt", r->prompt, r->prompt_len);
    if (r->messages && !r->n_messages) return client_fail(c, CADRE_INVALID_ARGUMENT, "a chat needs at least one message");
    for (size_t i = 0; r->messages && i < r->n_messages; i++) {
        const struct cadre_message *m = &r->messages[i];
        if (!m->role || !m->role[0] || !m->content)
            return client_fail(c, CADRE_INVALID_ARGUMENT, "message %zu lacks a role or content", i);
        int rc = check_text(c, "a message's role", m->role, 0);
        if (!rc) rc = check_text(c, "a message", m->content, m->content_len);
        if (rc) return rc;
    }
    return CADRE_OK;
}

static int check_stops(struct cadre_client *c, const struct cadre_request *r) {
    if (r->n_stop > MOST_STOPS || r->n_stop_ids > MOST_STOPS)
        return client_fail(c, CADRE_INVALID_ARGUMENT, "at most %d stop strings and stop ids are allowed", MOST_STOPS);
    for (size_t i = 0; i < r->n_stop; i++) {
        if (!r->stop[i] || !r->stop[i][0]) return client_fail(c, CADRE_INVALID_ARGUMENT, "a stop string must not be empty");
        int rc = check_text(c, "a stop string", r->stop[i], 0);
        if (rc) return rc;
    }
    return CADRE_OK;
}

int check_request(struct cadre_client *c, const struct cadre_request *r) {
    if (!isfinite(r->temperature) || r->temperature < 0)
        return client_fail(c, CADRE_INVALID_ARGUMENT, "temperature is %g; wanted 0 (greedy) or more", (double)r->temperature);
    if (!(r->top_p >= 0 && r->top_p <= 1))
        return client_fail(c, CADRE_INVALID_ARGUMENT, "top_p is %g; wanted 0 to 1", (double)r->top_p);
    if (!(r->min_p >= 0 && r->min_p <= 1))
        return client_fail(c, CADRE_INVALID_ARGUMENT, "min_p is %g; wanted 0 to 1", (double)r->min_p);
    if (r->logprobs > MOST_LOGPROBS + 1)
        return client_fail(c, CADRE_INVALID_ARGUMENT, "%u logprobs per token asked for; wanted at most %d", r->logprobs - 1,
                           MOST_LOGPROBS);
    int rc = check_stops(c, r);
    if (!rc && r->tag) rc = check_text(c, "the tag", r->tag, 0);
    if (!rc && r->tenant) rc = check_text(c, "the tenant", r->tenant, 0);
    return rc ? rc : check_input(c, r);
}
