/* admit.h - may this request in? Everything that can be said before its text is tokenised: fields within their ranges,
 * text that is UTF-8, ids within the vocabulary, what this checkpoint can do. Pure. */
#pragma once
#include "base/status.h"
#include "coordinator/msg.h"

enum {
    ADMIT_STOPS = 16,
    ADMIT_STOP_BYTES = 256,
    ADMIT_STOP_IDS = 16,
    ADMIT_TAG_BYTES = 64,
    ADMIT_PRIORITY = 1000,
    ADMIT_TURNS = 4096,
    ADMIT_ROLE_BYTES = 64
};
struct admit_limits {
    int vocab, max_context;
    bool has_tokenizer, has_template;
};

/* ERR_INVALID, ERR_TOO_LARGE or ERR_UNSUPPORTED with a reason for the client. */
int admit_generate(const struct generate_request *r, const struct admit_limits *l, struct why *why);
int admit_tokenize(const struct tokenize_request *r, const struct admit_limits *l, struct why *why);
/* What the wire leaves open, made definite: top_p 0 means 1. */
struct sampling admit_sampling(const struct sampling *s);
