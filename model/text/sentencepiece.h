/* sentencepiece.h - a SentencePiece model file (tokenizer.model): pieces with scores, and how text is normalised before.
 *
 * The file is a protobuf message (sentencepiece_model.proto of the SentencePiece project); only what encoding needs is read.
 * Everything borrows from the file's bytes, which must outlive the struct. */
#pragma once
#include "model/text/charsmap.h"
#include "model/text/subword.h"

enum spm_type { SPM_NORMAL = 1, SPM_UNKNOWN, SPM_CONTROL, SPM_USER_DEFINED, SPM_UNUSED, SPM_BYTE };
struct spm_piece {
    const char *s; /* well-formed UTF-8, not NUL-terminated */
    size_t len;
    float score;
    enum spm_type type;
};
struct spm_normal {                /* the normalisation, with SentencePiece's own rules about blanks */
    struct charsmap map;
    struct trie user;              /* user-defined pieces stay as they are */
    bool dummy_prefix, remove_extra, escape, suffix;
    bool first_only;               /* the dummy prefix only at the very start of the text, not behind each special token */
};
struct spm {
    struct spm_piece *piece;       /* [n] by id */
    size_t n;
    int model_type;                /* 1 unigram, 2 BPE */
    bool byte_fallback;
    int64_t unk, bos, eos;         /* -1: none */
    struct spm_normal normal;
};
/* True when the bytes look like such a file rather than like lines of text. */
bool spm_looks_like(const char *bytes, size_t len);
int  spm_read(const char *bytes, size_t len, struct spm *m, struct why *why); /* clear also after a failure */
void spm_clear(struct spm *m);
/* The model that encodes words with it. Zero *out first; subword_clear also after a failure. */
int  spm_model(const struct spm *m, struct subword *out, struct why *why);
/* Appends the normal form of s. first: s starts the text. 0 or ERR_NOMEM. */
void spm_normal_clear(struct spm_normal *n);
int  spm_normalize(const struct spm_normal *n, const char *s, size_t len, bool first, struct text_buf *out);
