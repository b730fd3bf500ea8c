/* eval.c - `cadre eval`: how well a model predicts a text, in one format beside others. */
#include "cli/cli.h"
#include "cli/windows.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clk.h"
#include "model/pack.h"
#include "worker/eval.h"

enum { MOST = 16, SAY_US = 500000 };

struct options {
    char *text, *weights, *kv, *isa;
    int64_t window, max_tokens, threads;
    bool json, quiet;
};
#define AT(member) offsetof(struct options, member)
static const struct conf_option table[] = {
    {"", CONF_FLAG, 0, .help = "Options"},
    {"text", CONF_STRING, AT(text), .arg = "FILE", .help = "the text, UTF-8; '-' is standard input"},
    {"weights", CONF_STRING, AT(weights), .def = "auto", .arg = "LIST",
     .help = "formats to hold each MODEL in: f32,bf16,q8,q4,stored,auto; a pack beside others is scored in its own, once"},
    {"kv", CONF_STRING, AT(kv), .def = "auto", .arg = "LIST",
     .help = "formats of keys and values for each of them, as --kv of `cadre serve`: f32,bf16,f16,int8,auto"},
    {"window", CONF_INT, AT(window), .def = "512", .min = 2, .max = 1 << 20, .arg = "N",
     .help = "tokens that attend to each other"},
    {"max-tokens", CONF_INT, AT(max_tokens), .def = "0", .min = 0, .max = INT32_MAX, .arg = "N",
     .help = "no more than these of the text; 0: all"},
    {"threads", CONF_INT, AT(threads), .def = "0", .min = 0, .max = 256, .arg = "N",
     .help = "compute threads; 0: as many as processors"},
    {"isa", CONF_CHOICE, AT(isa), .def = "auto", .choices = "auto|ref|avx2|avx512bw|avx512", .help = "kernels to use"},
    {"json", CONF_FLAG, AT(json), .def = "no", .help = "print one JSON object"},
    {"quiet", CONF_FLAG, AT(quiet), .def = "no", .letter = 'q', .help = "no progress"},
    {NULL}};
static const struct conf_command command = {
    .name = "cadre eval",
    .usage = "MODEL... --text FILE [options]",
    .about = "Scores how well models predict a text: perplexity, right guesses of the next token, bits per weight. Needs no\n"
             "cluster. The first MODEL in the first format is what the others are compared with.",
    .options = table,
    .footer = "All of them are in memory at once, and must have the same tokenizer. A model whose tokenizer begins a text\n"
              "with a token sees that at the start of each window.\n\n"
              "Examples:\n  cadre eval ~/models/olmoe --text held-out.txt --weights f32,bf16,q8,q4\n"
              "  cadre eval ~/models/olmoe ~/models/olmoe-q4 --text held-out.txt --weights f32,q8\n\n"
              "Exit status: 0 scored, 1 failed, 2 wrong usage.",
    .min_args = 1,
    .max_args = MOST};

struct scoring {
    struct eval *e[MOST];
    const char *dir[MOST];
    int n;
    struct windows text;
    int64_t windows;
};

static int open_one(struct scoring *s, const struct options *o, const char *dir, const char *weights, const char *kv,
                    struct why *why) {
    const struct eval_options eo = {.isa = o->isa,
                                    .weights = weights,
                                    .kv = kv,
                                    .threads = o->threads ? (int)o->threads : cli_cores(),
                                    .window = (int)o->window};
    if (s->n == MOST) return fail(why, ERR_INVALID, "more than %d models and formats", MOST);
    int rc = eval_open(dir, &eo, &s->e[s->n], why);
    if (rc < 0) return rc;
    s->dir[s->n++] = dir;
    if (eval_vocab(s->e[s->n - 1]) == eval_vocab(s->e[0])) return 0;
    return fail(why, ERR_INVALID, "%s has %d tokens, %s has %d: they cannot be compared", dir, eval_vocab(s->e[s->n - 1]),
                s->dir[0], eval_vocab(s->e[0]));
}

/* One model with weights in one format, and keys and values in every one of the list. */
static int open_kvs(struct scoring *s, const struct options *o, const char *dir, const char *weights, struct why *why) {
    char *list = strdup(o->kv), *rest = list;
    int rc = list ? 0 : fail(why, ERR_NOMEM, "out of memory");
    for (char *kv; rc >= 0 && (kv = strsep(&rest, ",")) != NULL;) rc = open_one(s, o, dir, weights, kv, why);
    free(list);
    return rc;
}

/* Every model in every format of the lists; but a pack is in one, which among others is that one. */
static int open_all(struct scoring *s, const struct options *o, const struct conf_args *args, struct why *why) {
    for (int i = 0; i < args->n; i++) {
        char *list = strdup(args->n > 1 && pack_exists(args->items[i]) ? "auto" : o->weights), *rest = list;
        int rc = list ? 0 : fail(why, ERR_NOMEM, "out of memory");
        for (char *one; rc >= 0 && (one = strsep(&rest, ",")) != NULL;) rc = open_kvs(s, o, args->items[i], one, why);
        free(list);
        if (rc < 0) return rc;
    }
    return 0;
}

static int check_ids(const struct scoring *s, struct why *why) {
    const int V = eval_vocab(s->e[0]);
    for (int i = 0; i < s->text.ids.len; i++)
        if (s->text.ids.ids[i] >= V)
            return fail(why, ERR_INVALID, "the tokenizer gives token %d, the model has %d", s->text.ids.ids[i], V);
    return s->text.begin < V ? 0
                             : fail(why, ERR_INVALID, "the tokenizer begins with token %d, the model has %d", s->text.begin, V);
}

static void say(const struct scoring *s, int done, bool terminal) {
    const struct eval_score *first = eval_score(s->e[0]);
    fprintf(stderr, "%s%3.0f%%, perplexity %.3f%s", terminal ? "\r" : "", 100.0 * done / s->text.ids.len,
            exp(first->nll / (double)first->tokens), terminal && done < s->text.ids.len ? "" : "\n");
}

static int score_all(struct scoring *s, const struct options *o, struct why *why) {
    const int before = s->text.begin >= 0, room = (int)o->window - before;
    int32_t *window = malloc(sizeof *window * (size_t)o->window);
    int64_t next_us = clk_now_us() + SAY_US;
    int rc = window ? 0 : fail(why, ERR_NOMEM, "out of memory for a window of %lld tokens", (long long)o->window);
    for (int at = 0, n; rc >= 0 && at < s->text.ids.len; at += n) {
        n = s->text.ids.len - at < room ? s->text.ids.len - at : room;
        if (before) window[0] = s->text.begin;
        memcpy(window + before, s->text.ids.ids + at, sizeof *window * (size_t)n);
        rc = eval_window(s->e, s->n, window, n + before, why);
        s->windows++;
        if (rc >= 0 && !o->quiet && (clk_now_us() >= next_us || at + n == s->text.ids.len)) {
            next_us = clk_now_us() + SAY_US;
            say(s, at + n, isatty(STDERR_FILENO));
        }
    }
    free(window);
    return rc;
}

struct figures {
    double perplexity, error;  /* one standard error of the mean, as perplexity */
    double ratio, ratio_error; /* to the first's; of the paired differences */
    double right, agreed, divergence, bits, expert_bits, mib, rate;
};

static double standard_error(double sum, double squares, double n) {
    const double mean = sum / n, variance = squares / n - mean * mean;
    return n > 1 && variance > 0 ? sqrt(variance / (n - 1)) : 0;
}

static struct figures figures_of(const struct eval *e) {
    const struct eval_score *s = eval_score(e);
    const double n = (double)s->tokens;
    struct eval_size z;
    struct figures f = {.perplexity = exp(s->nll / n), .ratio = exp(s->apart / n)};
    eval_size(e, &z);
    f.error = f.perplexity * standard_error(s->nll, s->nll_squares, n);
    f.ratio_error = f.ratio * standard_error(s->apart, s->apart_squares, n);
    f.right = (double)s->right / n;
    f.agreed = (double)s->agreed / n;
    f.divergence = s->divergence / n;
    f.bits = 8 * (double)z.bytes / (double)z.params;
    f.expert_bits = z.expert_params ? 8 * (double)z.expert_bytes / (double)z.expert_params : 0;
    f.mib = (double)z.bytes / (1 << 20);
    f.rate = n * 1e6 / (double)(s->us ? s->us : 1);
    return f;
}

static void print_table(const struct scoring *s) {
    const struct eval_score *first = eval_score(s->e[0]);
    printf("%llu tokens scored in %lld windows\n\n", (unsigned long long)first->tokens, (long long)s->windows);
    printf("%-7s %-5s %8s %9s %19s %21s %8s %11s %10s %8s\n", "weights", "kv", "MiB", "bits each", "perplexity", "to the first",
           "right", "same guess", "KL, nats", "tokens/s");
    for (int i = 0; i < s->n; i++) {
        const struct figures f = figures_of(s->e[i]);
        if (!i || s->dir[i] != s->dir[i - 1]) printf("%s\n", s->dir[i]);
        printf("%-7s %-5s %8.1f %9.2f %10.4f +- %-6.3f %11.5f +- %-7.5f", eval_weights(s->e[i]), eval_kv(s->e[i]), f.mib,
               f.bits, f.perplexity, f.error, f.ratio, f.ratio_error);
        printf(" %7.2f%% %10.2f%% %10.5f %8.0f\n", 100 * f.right, 100 * f.agreed, f.divergence, f.rate);
    }
    printf(
        "\nbits each: of all weights, scales included. right: the likeliest next token was the text's. same guess, KL: as the "
        "first's.\n");
}

/* JSON has no infinity and no NaN, which a broken model's figures are. */
static void print_number(const char *name, int digits, double x) {
    if (isfinite(x)) printf(",\"%s\":%.*f", name, digits, x);
    else printf(",\"%s\":null", name);
}

static void print_json(const struct scoring *s) {
    printf("{\"windows\":%lld,\"models\":[", (long long)s->windows);
    for (int i = 0; i < s->n; i++) {
        const struct figures f = figures_of(s->e[i]);
        printf("%s{\"model\":", i ? "," : "");
        cli_json_string(stdout, s->dir[i], strlen(s->dir[i]));
        printf(",\"weights\":\"%s\",\"kv\":\"%s\"", eval_weights(s->e[i]), eval_kv(s->e[i]));
        print_number("tokens", 0, (double)eval_score(s->e[i])->tokens);
        print_number("bytes", 0, f.mib * (1 << 20));
        print_number("bits_per_weight", 4, f.bits);
        print_number("expert_bits_per_weight", 4, f.expert_bits);
        print_number("perplexity", 6, f.perplexity);
        print_number("perplexity_error", 6, f.error);
        print_number("ratio", 7, f.ratio);
        print_number("ratio_error", 7, f.ratio_error);
        print_number("top1", 6, f.right);
        print_number("agreement", 6, f.agreed);
        print_number("kl", 8, f.divergence);
        print_number("tokens_per_second", 1, f.rate);
        putchar('}');
    }
    printf("]}\n");
}

static int run(const struct options *o, const struct conf_args *args) {
    struct scoring s = {0};
    struct why why;
    if (!o->text) return fprintf(stderr, "cadre eval: wanted --text FILE; see --help\n"), EXIT_USAGE;
    int rc = windows_read(&s.text, "eval", args->items[0], o->text, o->max_tokens, &why);
    if (rc >= 0) rc = open_all(&s, o, args, &why);
    if (rc >= 0) rc = check_ids(&s, &why);
    if (rc >= 0) rc = score_all(&s, o, &why);
    if (rc < 0) fprintf(stderr, "cadre eval: %s\n", why.text);
    else if (o->json) print_json(&s);
    else print_table(&s);
    for (int i = 0; i < s.n; i++) eval_close(s.e[i]);
    windows_clear(&s.text);
    return rc < 0 ? EXIT_FAILED : EXIT_DONE;
}

int eval_main(int argc, char **argv) {
    struct options o = {0};
    struct conf_args args;
    int status;
    if (cli_parse(&command, &o, argc, argv, &args, &status)) status = run(&o, &args);
    conf_clear(&command, &o, &args);
    return status;
}
