/* The peer of an incremental from a list: copies the listed ranges of one NBD export into another with libnbd.
 *
 *   copy-list SOURCE-URI TARGET-URI LIST IN-FLIGHT
 *
 * LIST holds lines "OFFSET LENGTH" in bytes. With 1 in flight it is the plain loop of nbd_pread and nbd_pwrite; with
 * more, that many ranges are on their way at once, each read and then written, over one connection a side, and one
 * poll() drives both. The target is flushed before the end. In C, so that no interpreter's time is the peer's.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <libnbd.h>

/* Longer ranges are cut: requests of 2 MiB and more make qemu-nbd fault on every buffer. */
#define LONGEST (1u << 20)

struct range {
    uint64_t offset;
    uint32_t length;
};

struct slot {
    char *buffer;
    struct range range;
};

static struct nbd_handle *source, *target;
static struct range *ranges;
static size_t range_count, next_range, under_way;
static int failed;

static void fail(const char *what)
{
    const char *why = nbd_get_error();
    fprintf(stderr, "copy-list: %s: %s\n", what, why ? why : "no reason given");
    exit(1);
}

static void add_range(uint64_t offset, uint32_t length)
{
    static size_t room;
    if (range_count == room) {
        room = room ? room * 2 : 1024;
        ranges = realloc(ranges, room * sizeof *ranges);
        if (!ranges)
            fail("no memory for the list");
    }
    ranges[range_count++] = (struct range){offset, length};
}

static void read_list(const char *path)
{
    FILE *list = fopen(path, "r");
    uint64_t offset, length;

    if (!list)
        fail("cannot open the list");
    while (fscanf(list, "%" SCNu64 " %" SCNu64, &offset, &length) == 2) {
        while (length > 0) {
            uint32_t piece = length < LONGEST ? (uint32_t)length : LONGEST;
            add_range(offset, piece);
            offset += piece;
            length -= piece;
        }
    }
    fclose(list);
}

static struct nbd_handle *connect_to(const char *uri)
{
    struct nbd_handle *handle = nbd_create();
    if (!handle || nbd_connect_uri(handle, uri) == -1)
        fail(uri);
    return handle;
}

static char *make_buffer(void)
{
    void *buffer;
    if (posix_memalign(&buffer, 4096, LONGEST) != 0)
        fail("no memory for a buffer");
    return buffer;
}

static void copy_one_by_one(void)
{
    char *buffer = make_buffer();
    for (size_t i = 0; i < range_count; i++) {
        if (nbd_pread(source, buffer, ranges[i].length, ranges[i].offset, 0) == -1)
            fail("read");
        if (nbd_pwrite(target, buffer, ranges[i].length, ranges[i].offset, 0) == -1)
            fail("write");
    }
    free(buffer);
}

static void start_next(struct slot *slot);

static int written(void *data, int *error)
{
    under_way--;
    if (*error)
        failed = 1;
    else
        start_next(data);
    return 1; /* the command is retired */
}

static int have_read(void *data, int *error)
{
    struct slot *slot = data;
    nbd_completion_callback then = {.callback = written, .user_data = slot};

    if (*error || nbd_aio_pwrite(target, slot->buffer, slot->range.length, slot->range.offset, then, 0) == -1) {
        under_way--;
        failed = 1;
    }
    return 1;
}

static void start_next(struct slot *slot)
{
    nbd_completion_callback then = {.callback = have_read, .user_data = slot};

    if (failed || next_range == range_count)
        return;
    slot->range = ranges[next_range++];
    under_way++;
    if (nbd_aio_pread(source, slot->buffer, slot->range.length, slot->range.offset, then, 0) == -1) {
        under_way--;
        failed = 1;
    }
}

static short wanted(struct nbd_handle *handle)
{
    unsigned direction = nbd_aio_get_direction(handle);
    return (direction & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
           (direction & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0);
}

/* One notification a turn: the first changes what the handle waits for. */
static void notify(struct nbd_handle *handle, short ready)
{
    unsigned direction = nbd_aio_get_direction(handle);
    int result = 0;

    if ((ready & (POLLIN | POLLHUP)) && (direction & LIBNBD_AIO_DIRECTION_READ))
        result = nbd_aio_notify_read(handle);
    else if ((ready & POLLOUT) && (direction & LIBNBD_AIO_DIRECTION_WRITE))
        result = nbd_aio_notify_write(handle);
    else if (ready & (POLLERR | POLLNVAL))
        fail("a connection broke");
    if (result == -1)
        fail("a connection failed");
}

static void copy_many_at_once(size_t in_flight)
{
    struct slot *slots = calloc(in_flight, sizeof *slots);

    if (!slots)
        fail("no memory");
    for (size_t i = 0; i < in_flight; i++) {
        slots[i].buffer = make_buffer();
        start_next(&slots[i]);
    }
    while (under_way > 0 && !failed) {
        struct pollfd both[2] = {
            {.fd = nbd_aio_get_fd(source), .events = wanted(source)},
            {.fd = nbd_aio_get_fd(target), .events = wanted(target)},
        };
        if (poll(both, 2, -1) == -1 && errno != EINTR)
            fail("poll");
        notify(source, both[0].revents);
        notify(target, both[1].revents);
    }
    if (failed)
        fail("a range could not be copied");
}

int main(int argc, char **argv)
{
    size_t in_flight;

    if (argc != 5 || (in_flight = strtoul(argv[4], NULL, 10)) == 0) {
        fprintf(stderr, "usage: copy-list SOURCE-URI TARGET-URI LIST IN-FLIGHT\n");
        return 2;
    }
    read_list(argv[3]);
    source = connect_to(argv[1]);
    target = connect_to(argv[2]);
    if (in_flight == 1)
        copy_one_by_one();
    else
        copy_many_at_once(in_flight);
    if (nbd_flush(target, 0) == -1)
        fail("flush");
    nbd_shutdown(source, 0);
    nbd_shutdown(target, 0);
    nbd_close(source);
    nbd_close(target);
    return 0;
}
