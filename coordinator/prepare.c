/* prepare.c - the tokeniser's thread. A chat is rendered by the checkpoint's template first; the template writes the special
 * tokens itself, so they are parsed and none are added; a plain prompt gets what the tokenizer's post-processor adds. */
#include "coordinator/prepare.h"

#include "base/log.h"
#include "base/ring.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { COUNT = 16 }; /* a prompt up to so many times too long is counted, so that the refusal can say by how much */

struct prepare {
    const struct tokenizer *tokenizer;
    const struct chat_template *chat;
    struct ring in, out;    /* of struct prepare_job * */
    struct bell wake, done; /* wake: the thread sleeps on it; done: the loop */
    atomic_bool stop;
    pthread_t thread;
    int jobs, most_jobs; /* between put and take; the loop's */
    size_t bytes, most_bytes;
};

struct prepare_job *prepare_job_text(struct text_slice text, int max_tokens, void *owner) {
    struct prepare_job *j = calloc(1, sizeof *j);
    if (!j) return NULL;
    *j = (struct prepare_job){
        .input = INPUT_TEXT, .text = malloc(text.len + 1), .text_len = text.len, .max_tokens = max_tokens, .owner = owner};
    if (!j->text) {
        free(j);
        return NULL;
    }
    memcpy(j->text, text.data, text.len);
    j->text[text.len] = 0;
    return j;
}

/* All strings in one block, owned through j->text. */
struct prepare_job *prepare_job_chat(const struct chat_turn *turns, size_t n, int max_tokens, void *owner) {
    size_t bytes = 0;
    for (size_t i = 0; i < n; i++) bytes += turns[i].role.len + turns[i].content.len + 2;
    struct prepare_job *j = calloc(1, sizeof *j);
    if (!j) return NULL;
    *j = (struct prepare_job){.input = INPUT_CHAT,
                              .text = malloc(bytes),
                              .text_len = bytes,
                              .turns = calloc(n, sizeof *j->turns),
                              .n_turns = (int)n,
                              .max_tokens = max_tokens,
                              .owner = owner};
    if (!j->text || !j->turns) {
        prepare_job_free(j);
        return NULL;
    }
    char *at = j->text;
    for (size_t i = 0; i < n; i++) {
        const struct text_slice part[2] = {turns[i].role, turns[i].content};
        const char **to[2] = {&j->turns[i].role, &j->turns[i].content};
        for (int k = 0; k < 2; k++) {
            *to[k] = at;
            if (part[k].len) memcpy(at, part[k].data, part[k].len);
            at[part[k].len] = 0;
            at += part[k].len + 1;
        }
    }
    return j;
}

void prepare_job_free(struct prepare_job *j) {
    if (!j) return;
    free(j->text);
    free(j->turns);
    token_list_clear(&j->ids);
    free(j);
}

/* A template's text holds all special tokens it wants; a plain prompt gets the tokenizer's own (bos ...). */
static int encode(const struct prepare *p, struct prepare_job *j, const char *text, size_t len) {
    int most = j->max_tokens < INT32_MAX / COUNT ? j->max_tokens * COUNT : INT32_MAX;
    int rc = tokenizer_encode(p->tokenizer, text, len, j->input == INPUT_TEXT, true, most, &j->ids, &j->why);
    if (rc == ERR_TOO_LARGE)
        fail(&j->why, rc, "the prompt has more than %d tokens; this cluster's context is %d", most, j->max_tokens);
    else if (rc >= 0 && j->ids.len > j->max_tokens)
        rc = fail(&j->why, ERR_TOO_LARGE, "the prompt has %d tokens; this cluster's context is %d", j->ids.len, j->max_tokens);
    return rc;
}

static int render_and_encode(const struct prepare *p, struct prepare_job *j) {
    struct text_buf text = {0};
    int rc = chat_template_render(p->chat, j->turns, j->n_turns, true, time(NULL), &text, &j->why);
    if (rc >= 0) rc = encode(p, j, text.data ? text.data : "", text.len);
    text_buf_clear(&text);
    return rc;
}

static void run_job(const struct prepare *p, struct prepare_job *j) {
    j->rc = j->input == INPUT_CHAT ? render_and_encode(p, j) : encode(p, j, j->text, j->text_len);
}

static void *prepare_main(void *arg) {
    struct prepare *p = arg;
    struct prepare_job *j;
    log_set_name("tokenizer");
    while (!atomic_load(&p->stop)) {
        bell_wait(&p->wake);
        while (!atomic_load(&p->stop) && ring_pop(&p->in, &j)) {
            run_job(p, j);
            if (!ring_push(&p->out, &j)) BUG("more jobs inside than the rings hold");
            bell_ring(&p->done);
        }
    }
    return NULL;
}

int prepare_open(const struct tokenizer *tokenizer, const struct chat_template *chat, int jobs, size_t bytes,
                 struct prepare **out, struct why *why) {
    struct prepare *p = aligned_alloc(_Alignof(struct prepare), sizeof *p); /* its rings keep to their cache lines */
    if (!p) return fail(why, ERR_NOMEM, "out of memory for the tokenizer's thread");
    *p = (struct prepare){
        .tokenizer = tokenizer, .chat = chat, .wake = {-1}, .done = {-1}, .most_jobs = jobs, .most_bytes = bytes};
    if (bell_open(&p->wake) < 0 || bell_open(&p->done) < 0 ||
        ring_init(&p->in, sizeof(struct prepare_job *), (size_t)jobs) < 0 ||
        ring_init(&p->out, sizeof(struct prepare_job *), (size_t)jobs) < 0 ||
        pthread_create(&p->thread, NULL, prepare_main, p)) {
        bell_close(&p->wake);
        bell_close(&p->done);
        ring_clear(&p->in);
        ring_clear(&p->out);
        free(p);
        return fail(why, ERR_IO, "cannot start the tokenizer's thread");
    }
    *out = p;
    return 0;
}

void prepare_close(struct prepare *p) {
    if (!p) return;
    atomic_store(&p->stop, true);
    bell_ring(&p->wake);
    pthread_join(p->thread, NULL);
    struct prepare_job *j;
    while (ring_pop(&p->in, &j) || ring_pop(&p->out, &j)) prepare_job_free(j);
    ring_clear(&p->in);
    ring_clear(&p->out);
    bell_close(&p->wake);
    bell_close(&p->done);
    free(p);
}

bool prepare_put(struct prepare *p, struct prepare_job *j) {
    if (p->jobs && p->bytes + j->text_len > p->most_bytes) return false;
    if (p->jobs >= p->most_jobs || !ring_push(&p->in, &j)) return false;
    p->jobs++;
    p->bytes += j->text_len;
    bell_ring(&p->wake);
    return true;
}

struct prepare_job *prepare_take(struct prepare *p) {
    struct prepare_job *j;
    if (!ring_pop(&p->out, &j)) return NULL;
    p->jobs--;
    p->bytes -= j->text_len;
    return j;
}

int prepare_fd(const struct prepare *p) { return p->done.fd; }
void prepare_clear(struct prepare *p) { bell_clear(&p->done); }
