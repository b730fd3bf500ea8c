/* request.h - the options of a request, the same for generate and chat: one table, one struct, one translation. */
#pragma once
#include "cli/cli.h"

struct request_options {
    char *connect, *key;
    int64_t max_tokens, seed, top_k, timeout;  /* max_tokens, seed: -1 = not given */
    double temperature, top_p, min_p;
    struct conf_list stop;
    bool allow_degraded;
    char *domain;
};

/* For a conf table whose struct T has a member `field` of type struct request_options, set to REQUEST_DEFAULTS. */
#define REQUEST_AT(T, field, member) (offsetof(T, field) + offsetof(struct request_options, member))
#define REQUEST_OPTIONS(T, field) \
    {"", CONF_FLAG, 0, .help = "Request"}, \
    {"connect", CONF_STRING, REQUEST_AT(T, field, connect), .def = CADRE_DEFAULT_ENDPOINT, .arg = "ENDPOINT", \
     .help = "where the cluster listens"}, \
    {"key", CONF_STRING, REQUEST_AT(T, field, key), .arg = "FILE", .help = "the key of a cluster that has one"}, \
    {"max-tokens", CONF_INT, REQUEST_AT(T, field, max_tokens), .min = 0, .max = 1e9, .arg = "N", \
     .help = "longest answer; default: up to the model's context"}, \
    {"temperature", CONF_REAL, REQUEST_AT(T, field, temperature), .def = "0", .min = 0, .max = 100, .arg = "X", \
     .help = "0 = always the likeliest token"}, \
    {"top-p", CONF_REAL, REQUEST_AT(T, field, top_p), .def = "1", .min = 0, .max = 1, .arg = "X", \
     .help = "likeliest tokens up to this total probability; 1 = off"}, \
    {"top-k", CONF_INT, REQUEST_AT(T, field, top_k), .def = "0", .min = 0, .max = 1e9, .arg = "N", \
     .help = "the N likeliest tokens; 0 = off"}, \
    {"min-p", CONF_REAL, REQUEST_AT(T, field, min_p), .def = "0", .min = 0, .max = 1, .arg = "X", \
     .help = "at least this share of the likeliest's probability"}, \
    {"seed", CONF_INT, REQUEST_AT(T, field, seed), .min = 0, .max = 9.2e18, .arg = "N", \
     .help = "same seed, same answer; default: drawn by the server"}, \
    {"stop", CONF_LIST, REQUEST_AT(T, field, stop), .arg = "TEXT", \
     .help = "end the answer before this text; may be given several times"}, \
    {"domain", CONF_STRING, REQUEST_AT(T, field, domain), .arg = "NAME", \
     .help = "what the request is about: experts' counts and traces are kept by it; of no effect on the answer"}, \
    {"timeout", CONF_INT, REQUEST_AT(T, field, timeout), .def = "0", .min = 0, .max = 1e9, .arg = "MS", \
     .help = "give the request up after so long; 0 = never"}, \
    {"allow-degraded", CONF_FLAG, REQUEST_AT(T, field, allow_degraded), \
     .help = "answer without experts that are on no worker, rather than wait for them"}
#define REQUEST_DEFAULTS {.max_tokens = -1, .seed = -1}

/* Sets everything of *out but its input. Borrows from o. */
static inline void request_fill(const struct request_options *o, struct cadre_request *out) {
    *out = (struct cadre_request){.temperature = (float)o->temperature, .top_p = (float)o->top_p, .min_p = (float)o->min_p,
        .top_k = (uint32_t)o->top_k, .has_seed = o->seed >= 0, .seed = o->seed >= 0 ? (uint64_t)o->seed : 0,
        .has_max_tokens = o->max_tokens >= 0, .max_tokens = o->max_tokens >= 0 ? (uint32_t)o->max_tokens : 0,
        .stop = (const char *const *)o->stop.items, .n_stop = (size_t)o->stop.n, .timeout_ms = (uint64_t)o->timeout,
        .allow_degraded = o->allow_degraded, .tag = o->domain};
}
