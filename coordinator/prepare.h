/* prepare.h - turns text and chats into token ids on a thread of its own, so that a long prompt never delays a step.
 *
 * Two rings and two bells: the owner puts jobs in and takes finished ones out, in order. A job's memory belongs to whoever made
 * it, but not while it is inside: between prepare_put and prepare_take nobody else may touch or free it.
 * What is inside is bounded in jobs and in bytes: prompts may be large, and clients many.
 * Owner of every function: the coordinator's loop. */
#pragma once
#include "base/bell.h"
#include "coordinator/msg.h"
#include "model/chat/chat_template.h"

struct prepare_job {
    enum generate_input input; /* INPUT_TEXT or INPUT_CHAT */
    char *text;                /* TEXT: the prompt; CHAT: what turns point into */
    size_t text_len;           /* bytes of it, terminators of CHAT included */
    struct chat_message *turns; /* CHAT */
    int n_turns;
    int max_tokens;        /* ERR_TOO_LARGE beyond */
    struct token_list ids; /* result */
    int rc;
    struct why why;
    void *owner;
};
/* Copies the input. NULL when out of memory. */
struct prepare_job *prepare_job_text(struct text_slice text, int max_tokens, void *owner);
struct prepare_job *prepare_job_chat(const struct chat_turn *turns, size_t n, int max_tokens, void *owner);
void prepare_job_free(struct prepare_job *j);

struct prepare;
/* tokenizer and chat (may be NULL) are borrowed; jobs, bytes: most inside. A job alone may have more bytes. */
int prepare_open(const struct tokenizer *tokenizer, const struct chat_template *chat, int jobs, size_t bytes,
                 struct prepare **out, struct why *why);
void prepare_close(struct prepare *p);                      /* waits for the job in hand; jobs still inside are freed */
bool prepare_put(struct prepare *p, struct prepare_job *j); /* false: full */
struct prepare_job *prepare_take(struct prepare *p);        /* NULL: none finished */
int prepare_fd(const struct prepare *p);                    /* readable when jobs are finished; prepare_clear, then take all */
void prepare_clear(struct prepare *p);
