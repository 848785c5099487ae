/* The floor: what RabbitMQ's own C client needs. `PROGRAM URL publish|consume MESSAGES [SIZE]`, figures as a line
 * of JSON, as benchmarks.probes.clients gives them. The body is ready bytes: nothing is encoded or decoded. */
#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define WARM 200
#define PREFETCH 500

static amqp_connection_state_t conn;
static amqp_bytes_t queue, body;

static double clock_now(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void check(int bad, const char *what) {
    if (bad) {
        fprintf(stderr, "librabbitmq: %s failed\n", what);
        exit(1);
    }
}

static double peak_mb(void) {
    char line[256];
    double kb = 0;
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        if (sscanf(line, "VmHWM: %lf", &kb) == 1) break;
    if (status) fclose(status);
    return kb / 1024;
}

static unsigned at_broker(void) {
    amqp_queue_declare_ok_t *ok = amqp_queue_declare(conn, 1, queue, 1, 0, 0, 0, amqp_empty_table);
    check(ok == NULL, "queue.declare");
    unsigned count = ok->message_count;
    amqp_maybe_release_buffers(conn);
    return count;
}

static void publish(int count) {
    amqp_basic_properties_t props;
    props._flags = AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_DELIVERY_MODE_FLAG;
    props.content_type = amqp_cstring_bytes("application/json");
    props.delivery_mode = 1;
    for (int i = 0; i < count; i++)
        check(amqp_basic_publish(conn, 1, amqp_empty_bytes, queue, 0, 0, &props, body), "basic.publish");
}

static void wait_at_broker(int count) {
    while (at_broker() < (unsigned)count) usleep(1000);
}

static void consume(int count) {
    for (int i = 0; i < count; i++) {
        amqp_envelope_t envelope;
        amqp_maybe_release_buffers(conn);
        amqp_rpc_reply_t reply = amqp_consume_message(conn, &envelope, NULL, 0);
        check(reply.reply_type != AMQP_RESPONSE_NORMAL, "consume");
        check(amqp_basic_ack(conn, 1, envelope.delivery_tag, 0), "ack");
        amqp_destroy_envelope(&envelope);
    }
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "--version")) {
        puts(amqp_version());
        return 0;
    }
    check(argc < 4, "arguments: URL publish|consume MESSAGES [SIZE]");
    struct amqp_connection_info info;
    check(amqp_parse_url(strdup(argv[1]), &info), "URL");
    int count = atoi(argv[3]), size = argc > 4 && atoi(argv[4]) ? atoi(argv[4]) : 256;
    char name[64];
    snprintf(name, sizeof name, "bench-c-%d", (int)getpid());
    queue = amqp_cstring_bytes(name);
    body.bytes = malloc(size);
    body.len = size;
    memset(body.bytes, 'x', size);
    conn = amqp_new_connection();
    amqp_socket_t *sock = amqp_tcp_socket_new(conn);
    check(amqp_socket_open(sock, info.host, info.port), "connect");
    check(amqp_login(conn, info.vhost, 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, info.user,
                     info.password).reply_type != AMQP_RESPONSE_NORMAL, "login");
    amqp_channel_open(conn, 1);
    check(amqp_get_rpc_reply(conn).reply_type != AMQP_RESPONSE_NORMAL, "channel.open");
    check(amqp_queue_declare(conn, 1, queue, 0, 0, 0, 0, amqp_empty_table) == NULL, "queue.declare");
    int consuming = !strcmp(argv[2], "consume");
    publish(consuming ? count + WARM : WARM);
    wait_at_broker(consuming ? count + WARM : WARM);
    if (consuming) {
        amqp_basic_qos(conn, 1, 0, PREFETCH, 0);
        amqp_basic_consume(conn, 1, queue, amqp_empty_bytes, 0, 0, 0, amqp_empty_table);
        consume(WARM);
    }
    double wall = clock_now(CLOCK_MONOTONIC), cpu = clock_now(CLOCK_PROCESS_CPUTIME_ID);
    if (consuming)
        consume(count);
    else {
        publish(count);
        wait_at_broker(count + WARM);
    }
    wall = clock_now(CLOCK_MONOTONIC) - wall;
    cpu = clock_now(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    double peak = peak_mb();
    printf("{\"per_second\": %f, \"cpu_us\": %f, \"peak_mb\": %f, \"connections\": 1}\n", count / wall,
           1e6 * cpu / count, peak);
    amqp_queue_delete(conn, 1, queue, 0, 0);
    amqp_connection_close(conn, AMQP_REPLY_SUCCESS);
    return 0;
}
