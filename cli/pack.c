/* pack.c - `cadre pack`: makes a model into files that workers map instead of loading, or checks one. */
#include "cli/cli.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clk.h"
#include "cli/windows.h"
#include "model/pack.h"
#include "worker/calibrate.h"

enum { SAY_US = 500000, WINDOW = 512 };

struct options {
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
    {"weights", CONF_CHOICE, AT(weights), .def = "bf16", .choices = "bf16|f32|q8|q4|stored",
     .help = "the format to hold them in, as --weights of `cadre serve`"},
    {"output-matrix", CONF_CHOICE, AT(output_matrix), .def = "auto", .choices = "auto|q8|q4",
     .help = "with q4: the matrix that makes logits, the most sensitive one; auto: q4 if it is fitted to a text, else q8"},
    {"calibrate", CONF_STRING, AT(calibrate), .arg = "FILE",
     .help = "a text like what will be asked: q8 and q4 are fitted to what it sends through the model"},
    {"calibrate-tokens", CONF_INT, AT(calibrate_tokens), .def = "16384", .min = 2, .max = 1 << 24, .arg = "N",
     .help = "of that text, at most"},
    {"prune", CONF_REAL, AT(prune), .def = "0", .min = 0, .max = 0.9, .arg = "PART",
     .help = "with --calibrate: leave out that part of each layer's experts, those that gave least on the text"},
    {"prune-what", CONF_CHOICE, AT(prune_what), .def = "experts", .choices = "experts|neurons",
     .help = "whole experts, or of each expert those neurons that gave least; of q8 and q4 in groups of 32"},
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
              "--weights. Numbers that are q8 or q4 are rounded once, here.\n\n"
              "Examples:\n  cadre pack ~/models/olmoe -o ~/models/olmoe-q4 --weights q4\n"
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

static int calibrate(const char *model, const struct options *o, struct progress *p, struct calibration **out,
                     struct why *why) {
    const struct calibrate_options co = {.threads = cli_cores(), .window = WINDOW};
    struct windows text = {0};
    int rc = fmt_quant((enum fmt)fmt_parse(o->weights)) || o->prune > 0
                 ? windows_read(&text, "pack", model, o->calibrate, o->calibrate_tokens, why)
                 : fail(why, ERR_INVALID, "--calibrate is for --weights q8 and q4 and for --prune; %s has nothing to fit",
                        o->weights);
    if (rc >= 0) rc = calibration_new(model, &co, text.ids.ids, text.ids.len, text.begin, say_read, p, out, why);
    windows_clear(&text);
    return rc;
}

/* Groups of 32 are what q8 and q4 are packed in and mxfp4 checkpoints are cut in: less than one saves nothing there. */
static int prune(struct calibration *known, const char *model, const struct options *o, struct pack_wish *wish,
                 struct why *why) {
    struct model_config c = {0};
    if (strcmp(o->prune_what, "neurons") != 0) return calibration_prune(known, o->prune, &wish->pruning, why);
    int rc = model_config_read(model, &c, why);
    const int multiple = fmt_quant(wish->weights) || c.quant == FMT_MXFP4 ? 32 : 1;
    return rc < 0 ? rc : calibration_prune_neurons(known, o->prune, multiple, &wish->pruning, why);
}

static int make(const char *model, const struct options *o, struct progress *p, struct why *why) {
    const struct pack_progress progress = {say, p};
    struct pack_wish wish = {.weights = (enum fmt)fmt_parse(o->weights)};
    struct calibration *known = NULL;
    int rc = o->prune > 0 && !o->calibrate
                 ? fail(why, ERR_INVALID, "--prune needs --calibrate: a text that says who gives least")
             : o->calibrate ? calibrate(model, o, p, &known, why)
                            : 0;
    const bool is_auto = !strcmp(o->output_matrix, "auto");
    wish.output_too = wish.weights == FMT_Q4 && (is_auto ? known != NULL : !strcmp(o->output_matrix, "q4"));
    if (rc >= 0 && !is_auto && wish.weights != FMT_Q4)
        rc = fail(why, ERR_INVALID, "--output-matrix is for --weights q4; of %s all is said already", o->weights);
    if (rc >= 0 && known && fmt_quant(wish.weights)) wish.rounding = calibration_rounding(known);
    if (rc >= 0 && o->prune > 0) rc = prune(known, model, o, &wish, why);
    if (rc >= 0) rc = pack_write(model, o->output, &wish, &progress, why);
    calibration_free(known);
    if (rc < 0) return rc;
    if (rc) {
        printf("%s: the pack of %s weights was there already; nothing was written, and --verify checks it\n", o->output,
               o->weights);
        return 0;
    }
    printf("%s: a pack of %s weights, made in %.1f s", o->output, o->weights, (double)(clk_now_us() - p->started_us) / 1e6);
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
        if (!o.verify == !o.output) {
            fprintf(stderr, "cadre pack: wanted either -o DIR or --verify; see --help\n");
            status = EXIT_USAGE;
        } else {
            int rc = o.verify ? verify(args.items[0], &p, &why) : make(args.items[0], &o, &p, &why);
            if (rc < 0) fprintf(stderr, "cadre pack: %s\n", why.text);
            status = rc < 0 ? EXIT_FAILED : EXIT_DONE;
        }
    }
    conf_clear(&command, &o, &args);
    return status;
}
