/*-------------------------------------------------------------------------
 *
 * auth.c
 *	  Who we are to the memcached servers: user name and password.
 *
 * Invariant: a password is nowhere but in the setting or the file that it comes from and in
 * the caller's request, which the caller wipes when it has been sent.  A password is in no
 * message, whatever goes wrong.  The file is read for every connection, so that it can be
 * replaced at any time.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage/fd.h"

#include "guc.h"
#include "net/auth.h"
#include "password.h"
#include "protocol/wire.h"
#include "shmem.h"

static bool read_password(char *password, char *failure);

/*
 * May a file with this mode hold a secret?  Not if everybody may read or replace
 * what is in it.
 */
bool
ec_auth_file_is_private(int mode)
{
	return (mode & S_IRWXO) == 0;
}

/*
 * Read the first line of echocache.password_file, which is relative to the data directory,
 * in which every process of PostgreSQL works.  password has room for EC_PASSWORD_MAX + 3
 * bytes, so that one too many is seen before the line end.  false: failure says what is
 * wrong.  Never throws.
 */
static bool
read_password(char *password, char *failure)
{
	const char *wrong = NULL;
	struct stat st;
	ssize_t		n = -1;
	int			fd;

	/* somebody may have put a pipe there: do not wait for its other end */
	fd = BasicOpenFile(ec_guc_password_file, O_RDONLY | O_NONBLOCK | PG_BINARY);
	if (fd >= 0 && fstat(fd, &st) == 0)
	{
		if (!S_ISREG(st.st_mode))
			wrong = "echocache.password_file is not a regular file";
		else if (!ec_auth_file_is_private(st.st_mode))
			wrong = "echocache.password_file is accessible to others: take that permission away";
		else
			n = read(fd, password, EC_PASSWORD_MAX + 2);
	}
	if (wrong == NULL && n < 0)
		snprintf(failure, EC_ERROR_MAX, "echocache.password_file cannot be read: %s",
				 strerror(errno));
	if (fd >= 0)
		close(fd);
	if (n >= 0)
	{
		password[n] = '\0';
		if (strlen(password) < (size_t) n && strchr(password, '\n') == NULL)
			wrong = "the first line of echocache.password_file holds a NUL";
		password[strcspn(password, "\r\n")] = '\0';
		if (wrong == NULL && (password[0] == '\0' || !ec_wire_valid_password(password)))
			wrong = "the first line of echocache.password_file is no password";
	}
	if (wrong)
		strlcpy(failure, wrong, EC_ERROR_MAX);
	return n >= 0 && wrong == NULL;
}

/*
 * Write the request that says who we are to dst: at most EC_REQUEST_MAX bytes, which the
 * caller wipes.  Returns its length.  0: it cannot be made, for the reason that is written
 * to failure, which has room for EC_ERROR_MAX bytes.  Never throws.
 */
size_t
ec_auth_request(char *dst, char *failure)
{
	char		password[EC_PASSWORD_MAX + 3];
	size_t		len = 0;

	if (ec_guc_password_file[0] != '\0')
	{
		if (read_password(password, failure))
			len = ec_wire_auth(dst, ec_guc_username, password);
		explicit_bzero(password, sizeof(password));
	}
	else if (ec_password_secret()[0] == '\0')
		strlcpy(failure, "echocache.username is set, and no password", EC_ERROR_MAX);
	else
		len = ec_wire_auth(dst, ec_guc_username, ec_password_secret());
	return len;
}
