/* pack.c - `cadre pack`: makes a model into files that workers map instead of loading, or checks one. */
#include "cli/cli.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clk.h"
#include "cli/windows.h"
#include "model/pack.h"
#include "worker/calibrate.h"

enum { SAY_US = 500000, WINDOW = 512, CALIBRATE_TOKENS = 16384 };

struct options { /* NULL and 0: not given */
    char *output, *weights, *output_matrix, *calibrate, *prune_what;
    int64_t calibrate_tokens;
    double prune;
    bool verify, quiet;
};
#define AT(member) offsetof(struct options, member)
static const struct conf_option table[] = {
    {"", CONF_FLAG, 0, .help = "Options"},
    {"output", CONF_STRING, AT(output), .arg = "DIR", .letter = 'o',
     .help = "the folder to make; it becomes a model directory"},
    {"weights", CONF_CHOICE, AT(weights), .choices = "bf16|f32|q8|q4|stored",
     .help = "the format to hold them in, as --weights of `cadre serve` (default bf16)"},
    {"output-matrix", CONF_CHOICE, AT(output_matrix), .choices = "auto|q8|q4",
     .help = "with q4: the matrix that makes logits, the most sensitive one; auto: q4 if it is fitted to a text, else q8"},
    {"calibrate", CONF_STRING, AT(calibrate), .arg = "FILE",
     .help = "a text like what will be asked: q8 and q4 are fitted to what it sends through the model"},
    {"calibrate-tokens", CONF_INT, AT(calibrate_tokens), .min = 2, .max = 1 << 24, .arg = "N",
     .help = "of that text, at most (default 16384)"},
    {"prune", CONF_REAL, AT(prune), .min = 0, .max = 0.9, .arg = "PART",
     .help = "with --calibrate: leave out that part of each layer's experts, those that gave least on the text"},
    {"prune-what", CONF_CHOICE, AT(prune_what), .choices = "experts|neurons",
     .help = "whole experts (default), or of each expert those neurons that gave least; by groups where the format has groups"},
    {"verify", CONF_FLAG, AT(verify), .def = "no", .help = "check every blob of the pack MODEL instead of making one"},
    {"quiet", CONF_FLAG, AT(quiet), .def = "no", .letter = 'q', .help = "no progress"},
    {NULL}};
static const struct conf_command command = {
    .name = "cadre pack",
    .usage = "MODEL -o DIR [options] | --verify DIR",
    .about = "Writes a model as workers hold it in memory: one blob per expert and per other tensor, in the layout that the\n"
             "kernels read, checksummed. A worker maps a pack and loads nothing, and those of one host share its pages.",
    .options = table,
    .footer = "Interrupted, it goes on where it was when it is started again. The answers have the bits of MODEL served with "
              "the same\n"
              "--weights, unless --calibrate or --prune made other weights of it; `cadre eval` says what that costs.\n\n"
              "Examples:\n  cadre pack ~/models/olmoe -o ~/models/olmoe-q8 --weights q8\n"
              "  cadre pack ~/models/olmoe -o ~/models/olmoe-q4 --weights q4 --calibrate text.txt\n"
              "  cadre pack ~/models/olmoe -o ~/models/olmoe-less --weights q4 --calibrate text.txt --prune 0.1\n"
              "  cadre serve ~/models/olmoe-q4 --workers 4 --fabric shm\n"
              "  cadre pack --verify ~/models/olmoe-q4\n\n"
              "Exit status: 0 made or whole, 1 failed or corrupt, 2 wrong usage.",
    .min_args = 1,
    .max_args = 1};

struct progress {
    int64_t started_us, next_us;
    bool quiet, terminal;
    uint64_t kept;
};

static void say(void *ctx, uint64_t done, uint64_t all, uint64_t kept) {
    struct progress *p = ctx;
    int64_t now_us = clk_now_us();
    p->kept = kept;
    if (p->quiet || (now_us < p->next_us && done < all)) return;
    p->next_us = now_us + SAY_US;
    fprintf(stderr, "%s%3.0f%%, %.1f of %.1f MiB%s", p->terminal ? "\r" : "", 100.0 * (double)done / (double)all,
            (double)done / (1 << 20), (double)all / (1 << 20), p->terminal && done < all ? "" : "\n");
}

static void say_checked(void *ctx, uint64_t done, uint64_t all) { say(ctx, done, all, 0); }

static int verify(const char *dir, struct progress *p, struct why *why) {
    struct checkpoint c;
    int rc = checkpoint_open(dir, &c, why);
    if (rc < 0) return rc;
    if (!c.pack) rc = fail(why, ERR_INVALID, "%s is no pack: there is no %s", dir, PACK_FILE);
    else rc = pack_check_all(c.pack, say_checked, p, why);
    if (rc >= 0)
        printf("%s: %llu blobs of %s weights, all match their checksums\n", dir, (unsigned long long)pack_header(c.pack)->blobs,
               fmt_name(pack_weights(c.pack)));
    checkpoint_close(&c);
    return rc;
}

static void say_read(void *ctx, int done, int all) {
    struct progress *p = ctx;
    if (p->quiet || (clk_now_us() < p->next_us && done < all)) return;
    p->next_us = clk_now_us() + SAY_US;
    fprintf(stderr, "%scalibrating %3.0f%%%s", p->terminal ? "\r" : "", 100.0 * done / all,
            p->terminal && done < all ? "" : "\n");
}

/* What options ask for together that makes no sense, or NULL. */
static const char *wrong(const struct options *o, enum fmt weights) {
    const bool fits = o->calibrate || o->calibrate_tokens || o->prune > 0 || o->prune_what;
    if (!o->verify == !o->output) return "wanted either -o DIR or --verify; see --help";
    if (o->verify && (fits || o->weights || o->output_matrix)) return "--verify makes no pack: it takes --quiet alone";
    if (o->prune > 0 && !o->calibrate) return "--prune needs --calibrate: a text that says who gives least";
    if (o->prune_what && !(o->prune > 0)) return "--prune-what needs --prune: how much of it is left out";
    if (o->calibrate_tokens && !o->calibrate) return "--calibrate-tokens needs --calibrate: the text they are of";
    if (o->calibrate && !fmt_quant(weights) && !(o->prune > 0))
        return "--calibrate is for --weights q8 and q4 and for --prune; of others nothing is fitted";
    if (o->output_matrix && strcmp(o->output_matrix, "auto") != 0 && weights != FMT_Q4)
        return "--output-matrix is for --weights q4; of others all is said already";
    return NULL;
}

/* Before a text is read for it, which takes long: the errors of making it that are known by then. `stay`: as pruning_stay. */
static int check_first(const char *model, const struct options *o, enum fmt weights, enum prune what, int *stay,
                       struct why *why) {
    struct checkpoint c;
    int rc = checkpoint_open(model, &c, why);
    if (rc < 0) return rc;
    rc = pack_may_begin(&c, model, o->output, weights, why);
    if (rc >= 0 && o->prune > 0) rc = *stay = pruning_stay(&c.config, weights, what, o->prune, why);
    checkpoint_close(&c);
    return rc < 0 ? rc : 0;
}

/* Reads the text, and wishes for what it said. */
static int calibrate(const char *model, const struct options *o, enum prune what, int stay, struct progress *p,
                     struct calibration **out, struct pack_wish *wish, struct why *why) {
    const struct calibrate_options co = {.threads = cli_cores(), .window = WINDOW};
    struct windows text = {0};
    const int64_t most = o->calibrate_tokens ? o->calibrate_tokens : CALIBRATE_TOKENS;
    int rc = windows_read(&text, "pack", model, o->calibrate, most, why);
    if (rc >= 0) rc = calibration_new(model, &co, text.ids.ids, text.ids.len, text.begin, say_read, p, out, why);
    windows_clear(&text);
    if (rc < 0) return rc;
    if (fmt_quant(wish->weights)) wish->rounding = calibration_rounding(*out);
    if (!(o->prune > 0)) return 0;
    return (what == PRUNE_NEURONS ? calibration_prune_neurons : calibration_prune)(*out, stay, &wish->pruning, why);
}

static int make(const char *model, const struct options *o, enum fmt weights, struct progress *p, struct why *why) {
    const struct pack_progress progress = {say, p};
    const enum prune what = o->prune_what && !strcmp(o->prune_what, "neurons") ? PRUNE_NEURONS : PRUNE_EXPERTS;
    const bool is_auto = !o->output_matrix || !strcmp(o->output_matrix, "auto");
    struct pack_wish wish = {.weights = weights};
    struct calibration *known = NULL;
    int stay = 0, rc = check_first(model, o, weights, what, &stay, why);
    wish.output_too = weights == FMT_Q4 && (is_auto ? o->calibrate != NULL : !strcmp(o->output_matrix, "q4"));
    if (rc >= 0 && o->calibrate) rc = calibrate(model, o, what, stay, p, &known, &wish, why);
    if (rc >= 0) rc = pack_write(model, o->output, &wish, &progress, why);
    calibration_free(known);
    if (rc < 0) return rc;
    if (rc) {
        printf("%s: the pack of %s weights was there already; nothing was written, and --verify checks it\n", o->output,
               fmt_name(weights));
        return 0;
    }
    printf("%s: a pack of %s weights, made in %.1f s", o->output, fmt_name(weights),
           (double)(clk_now_us() - p->started_us) / 1e6);
    if (p->kept) printf("; %.1f MiB were there already", (double)p->kept / (1 << 20));
    putchar('\n');
    return 0;
}

int pack_main(int argc, char **argv) {
    struct options o = {0};
    struct conf_args args;
    struct why why;
    int status;
    if (cli_parse(&command, &o, argc, argv, &args, &status)) {
        struct progress p = {.started_us = clk_now_us(), .quiet = o.quiet, .terminal = isatty(STDERR_FILENO)};
        const enum fmt weights = o.weights ? (enum fmt)fmt_parse(o.weights) : FMT_BF16;
        const char *usage = wrong(&o, weights);
        int rc = usage ? fail(&why, ERR_INVALID, "%s", usage)
                 : o.verify ? verify(args.items[0], &p, &why)
                            : make(args.items[0], &o, weights, &p, &why);
        if (rc < 0) fprintf(stderr, "cadre pack: %s\n", why.text);
        status = usage ? EXIT_USAGE : rc < 0 ? EXIT_FAILED : EXIT_DONE;
    }
    conf_clear(&command, &o, &args);
    return status;
}
