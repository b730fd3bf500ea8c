/* world_mpi.h - what both MPI forms share: one world per process, and MPI's own words for what went wrong. */
#pragma once
#include <mpi.h>

#include "base/status.h"

/* ERR_IO: `call` ended with `code`. */
int world_failed(struct why *why, const char *call, int code);
/* MPI's text of an error code, in buf[MPI_MAX_ERROR_STRING]; returns buf. */
const char *world_text(int code, char *buf);
/* A communicator of a transport's own, on which errors return. Collective. */
int world_dup(MPI_Comm *out, struct why *why);
