/* SPDX-License-Identifier: MIT */
/* Opens and holes, which the walk and the open files of the source share. Internal to the source. */
#ifndef DWCP_TRANSPORT_SOURCE_FD_H
#define DWCP_TRANSPORT_SOURCE_FD_H

#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

/* Opens path, of which operand_len bytes are the operand: symbolic links are followed there, and there only.
 * The descriptor or -errno. */
int source_open_at(const char *path, size_t operand_len, int flags);

/* The file's size less its holes. 0 or -errno. */
int source_data_bytes(int fd, const struct stat *st, uint64_t *bytes);

#endif
