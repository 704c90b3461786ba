/* SPDX-License-Identifier: MIT */
#include "migrate/guest_kvm.h"

#include "base/clock.h"
#include "base/thread.h"
#include "base/util.h"
#include "migrate/kvm_vm.h"
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#define STATE_VERSION 1
#define MEMORY_MAX (3ull << 30) /* below what a PC's devices take */
#define PROGRAM_AT 0x1000u
#define PAGES_AT 0x100000u /* what is written begins here */
#define PORT_BUDGET 0x10   /* in: how many writes to make now */
#define PORT_COUNT 0x11    /* out: how many it has made */
#define SLICE_NS (2 * NS_PER_MS)
#define BEHIND_NS (20 * NS_PER_MS)
#define WRITES_MOST 1024
#define STEPS_MAX 64
#define KICK (SIGRTMIN + 3)

/*
 * ebx: writes made. ecx: sum of every page's chain. esi: generator. edi: where pages begin. ebp: how many. A page holds
 * {count, chain}. esp counts what is left to do: the program has no stack.
 */
__asm__(".pushsection .rodata\n"
	".code32\n"
	"kvm_program:\n"
	"1:	mov %ebx, %eax\n"
	"	out %eax, $0x11\n"
	"	in $0x10, %eax\n"
	"	mov %eax, %esp\n"
	"kvm_program_next:\n"
	"2:	test %esp, %esp\n"
	"	jz 1b\n"
	"	dec %esp\n"
	"	imul $1664525, %esi, %esi\n"
	"	add $1013904223, %esi\n"
	"	mov %esi, %eax\n"
	"	mul %ebp\n"
	"	shl $12, %edx\n"
	"	add %edi, %edx\n"
	"	inc %ebx\n"
	"	mov 4(%edx), %eax\n"
	"	sub %eax, %ecx\n"
	"	xor %ebx, %eax\n"
	"	imul $0x9e3779b1, %eax, %eax\n"
	"	add %eax, %ecx\n"
	"	incl (%edx)\n"
	"	mov %eax, 4(%edx)\n"
	"	jmp 2b\n"
	"kvm_program_end:\n"
	".code64\n"
	".popsection\n");
extern const uint8_t kvm_program[], kvm_program_next[], kvm_program_end[];

/* Labels of the one piece of code above: to the compiler, objects of their own. */
static size_t program_bytes(const uint8_t *to)
{
	return (size_t)((uintptr_t)to - (uintptr_t)kvm_program);
}

struct vm {
	struct guest g;
	double dirty_rate;
	unsigned throttle;
	struct kvm_vm vm;
	pthread_t thread;
	bool started;

	pthread_mutex_t mu;
	pthread_cond_t go, parked;
	bool running, ending, is_parked;
	int failed; /* why the CPU stopped by itself; 0: it did not */
	uint64_t seen;
};

static struct vm *vm_of(const struct guest *g)
{
	return (struct vm *)g;
}

#define FIELD(f) offsetof(struct kvm_opts, f)

static const struct opt rows[] = {
	{ .name = "vm-dirty-rate",
	  .type = OPT_F64,
	  .offset = FIELD(dirty_rate),
	  .def = "1",
	  .unit = "%/s",
	  .help = "page writes per second, in percent of the guest's pages" },
	{ .name = "vm-seed", .type = OPT_U32, .offset = FIELD(seed), .def = "1", .help = "of what is written where" },
};

/* ---- the CPU's thread -------------------------------------------------------------------------- */

static bool told_to_stop(const struct vm *v)
{
	return !__atomic_load_n(&v->running, __ATOMIC_ACQUIRE);
}

/* At a time: so that its work can be seen, and because where KVM interprets the guest no full ring stops it meanwhile. */
static uint32_t most_writes(const struct vm *v)
{
	return v->vm.ring.entry ? (uint32_t)min_u64(WRITES_MOST, v->vm.ring.entries / 8) : WRITES_MOST;
}

/* How many writes are due; waits for the next slice, or until told to stop. */
static uint32_t budget(struct vm *v, uint64_t *last, double *due)
{
	uint64_t now = clock_now(&clock_mono), until = now + SLICE_NS;
	double rate = (double)guest_pages(&v->g) * v->dirty_rate / 100;
	uint32_t n;
	struct timespec at = { .tv_sec = (time_t)(until / NS_PER_S), .tv_nsec = (long)(until % NS_PER_S) };

	pthread_mutex_lock(&v->mu);
	while (v->running && *due < 1 && pthread_cond_timedwait(&v->go, &v->mu, &at) == 0)
		;
	pthread_mutex_unlock(&v->mu);
	now = clock_now(&clock_mono);
	*due += rate * (100 - __atomic_load_n(&v->throttle, __ATOMIC_RELAXED)) / 100 *
		(double)min_u64(now - *last, BEHIND_NS) / 1e9;
	*last = now;
	n = told_to_stop(v) ? 0 : (uint32_t)fmin(*due, most_writes(v));
	*due -= n;
	return n;
}

static int handle_exit(struct vm *v, uint64_t *last, double *due)
{
	struct kvm_run *r = v->vm.run;
	uint8_t *data = (uint8_t *)r + r->io.data_offset;
	uint32_t n;

	if (r->exit_reason == KVM_EXIT_DIRTY_RING_FULL)
		return kvm_ring_full(&v->vm.ring);
	if (r->exit_reason != KVM_EXIT_IO || r->io.size != 4 || r->io.count != 1)
		return -EIO;
	if (r->io.direction == KVM_EXIT_IO_IN && r->io.port == PORT_BUDGET) {
		n = budget(v, last, due);
		memcpy(data, &n, 4);
		return v->vm.ring.entry ? kvm_ring_relieve(&v->vm.ring) : 0;
	}
	if (r->io.direction == KVM_EXIT_IO_OUT && r->io.port == PORT_COUNT) {
		memcpy(&n, data, 4);
		__atomic_store_n(&v->seen, n, __ATOMIC_RELAXED);
		return 0;
	}
	return -EIO;
}

/* Until told to pause. An exit that is answered is taken back into the CPU before that: its state is then whole. */
static int run_cpu(struct vm *v)
{
	uint64_t last = clock_now(&clock_mono);
	struct timespec none = { 0 };
	double due = 0;
	sigset_t kick;
	int rc = 0;

	sigemptyset(&kick);
	sigaddset(&kick, KICK);
	for (;;) {
		bool stop = told_to_stop(v);

		v->vm.run->immediate_exit = stop;
		if (ioctl(v->vm.cpu, KVM_RUN, 0) < 0) {
			rc = -errno;
			sigtimedwait(&kick, NULL, &none);
			if (rc != -EINTR)
				return rc;
			if (stop)
				return 0;
			continue;
		}
		rc = handle_exit(v, &last, &due);
		if (rc < 0)
			return rc;
	}
}

static void *cpu_main(void *arg)
{
	struct vm *v = arg;

	pthread_mutex_lock(&v->mu);
	while (!v->ending) {
		v->is_parked = true;
		pthread_cond_broadcast(&v->parked);
		while ((!v->running || v->failed) && !v->ending)
			pthread_cond_wait(&v->go, &v->mu);
		v->is_parked = false;
		if (v->ending)
			break;
		pthread_mutex_unlock(&v->mu);
		int rc = run_cpu(v);

		pthread_mutex_lock(&v->mu);
		v->failed = rc;
	}
	pthread_mutex_unlock(&v->mu);
	return NULL;
}

/* ---- making it --------------------------------------------------------------------------------- */

static int first_state(struct vm *v, uint32_t seed)
{
	struct kvm_segment flat = {
		.limit = 0xffffffff, .selector = 8, .type = 11, .present = 1, .db = 1, .s = 1, .g = 1
	};
	struct kvm_regs r = {
		.rip = PROGRAM_AT,
		.rflags = 2,
		.rsi = seed,
		.rdi = PAGES_AT,
		.rbp = (v->g.len - PAGES_AT) / GUEST_PAGE,
	};
	struct kvm_sregs s;

	if (ioctl(v->vm.cpu, KVM_GET_SREGS, &s) < 0)
		return -errno;
	s.cs = flat;
	flat.type = 3;
	flat.selector = 16;
	s.ds = s.es = s.fs = s.gs = s.ss = flat;
	s.cr0 |= 1;
	if (ioctl(v->vm.cpu, KVM_SET_SREGS, &s) < 0 || ioctl(v->vm.cpu, KVM_SET_REGS, &r) < 0)
		return -errno;
	memcpy(v->g.mem + PROGRAM_AT, kvm_program, program_bytes(kvm_program_end));
	return 0;
}

static void kvm_close(struct guest *g)
{
	struct vm *v = vm_of(g);

	if (!v)
		return;
	pthread_mutex_lock(&v->mu);
	v->ending = true;
	__atomic_store_n(&v->running, false, __ATOMIC_RELEASE);
	pthread_cond_broadcast(&v->go);
	pthread_mutex_unlock(&v->mu);
	if (v->started) {
		pthread_kill(v->thread, KICK);
		pthread_join(v->thread, NULL);
	}
	kvm_vm_close(&v->vm);
	pthread_cond_destroy(&v->go);
	pthread_cond_destroy(&v->parked);
	pthread_mutex_destroy(&v->mu);
	free(v);
}

static int start_thread(struct vm *v, struct err *e)
{
	int rc = thread_start(&v->thread, "dwcp-vcpu", cpu_main, v);

	if (rc < 0)
		return err_set(e, rc, "cannot start a virtual CPU's thread: %s; raise ulimit -u", strerror(-rc));
	v->started = true;
	pthread_mutex_lock(&v->mu);
	while (!v->is_parked)
		pthread_cond_wait(&v->parked, &v->mu);
	pthread_mutex_unlock(&v->mu);
	return 0;
}

static int kvm_open(struct guest **out, void *mem, uint64_t len, const void *opts, struct err *e)
{
	const struct kvm_opts *o = opts;
	pthread_condattr_t mono;
	struct vm *v;
	int rc;

	if (len > MEMORY_MAX || len <= PAGES_AT)
		return err_set(e, -EINVAL, "a kvm guest has more than 1 MB and at most 3 GB of memory");
	if (o && !(o->dirty_rate >= 0 && o->dirty_rate <= 1e6))
		return err_set(e, -EINVAL, "--vm-dirty-rate must be 0 or more");
	v = calloc(1, sizeof *v);
	if (!v)
		return err_set(e, -ENOMEM, "no memory for a guest");
	v->g = (struct guest){ .ops = &guest_kvm_ops, .mem = mem, .len = len };
	pthread_mutex_init(&v->mu, NULL);
	pthread_condattr_init(&mono);
	pthread_condattr_setclock(&mono, CLOCK_MONOTONIC);
	pthread_cond_init(&v->go, &mono);
	pthread_cond_init(&v->parked, &mono);
	pthread_condattr_destroy(&mono);
	rc = kvm_vm_open(&v->vm, mem, len, o ? o->ring : 0, KICK, e);
	if (rc == 0 && o) {
		v->dirty_rate = o->dirty_rate;
		rc = first_state(v, o->seed);
		if (rc < 0)
			err_set(e, rc, "cannot set a virtual CPU's state: %s", strerror(-rc));
	}
	if (rc == 0)
		rc = start_thread(v, e);
	if (rc < 0)
		kvm_close(&v->g);
	else
		*out = &v->g;
	return rc;
}

/* ---- running ----------------------------------------------------------------------------------- */

static int kvm_run(struct guest *g, struct err *e)
{
	struct vm *v = vm_of(g);
	int failed;

	pthread_mutex_lock(&v->mu);
	failed = v->failed;
	if (!failed) {
		__atomic_store_n(&v->running, true, __ATOMIC_RELEASE);
		pthread_cond_broadcast(&v->go);
	}
	pthread_mutex_unlock(&v->mu);
	return failed ? err_set(e, failed, "the virtual CPU stopped by itself (%s): the guest is dead",
				strerror(-failed))
		      : 0;
}

static int kvm_pause(struct guest *g, struct err *e)
{
	struct vm *v = vm_of(g);
	int failed;

	pthread_mutex_lock(&v->mu);
	if (v->running) {
		__atomic_store_n(&v->running, false, __ATOMIC_RELEASE);
		pthread_cond_broadcast(&v->go);
		/* Pending until the CPU is entered next, if it is not inside: so it cannot come too early. */
		pthread_kill(v->thread, KICK);
	}
	while (!v->is_parked)
		pthread_cond_wait(&v->parked, &v->mu);
	failed = v->failed;
	pthread_mutex_unlock(&v->mu);
	return failed ? err_set(e, failed, "the virtual CPU stopped by itself (%s): the guest is dead",
				strerror(-failed))
		      : 0;
}

static void kvm_halt(struct guest *g)
{
	struct vm *v = vm_of(g);

	pthread_mutex_lock(&v->mu);
	if (v->running) {
		__atomic_store_n(&v->running, false, __ATOMIC_RELEASE);
		pthread_cond_broadcast(&v->go);
		pthread_kill(v->thread, KICK);
	}
	pthread_mutex_unlock(&v->mu);
}

/* What of a CPU our program can depend on. */
struct cpu_state {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_fpu fpu;
	struct kvm_vcpu_events events;
};

static int kvm_save(struct guest *g, struct wcur *out, struct err *e)
{
	struct vm *v = vm_of(g);
	struct cpu_state s;

	if (ioctl(v->vm.cpu, KVM_GET_REGS, &s.regs) < 0 || ioctl(v->vm.cpu, KVM_GET_SREGS, &s.sregs) < 0 ||
	    ioctl(v->vm.cpu, KVM_GET_FPU, &s.fpu) < 0 || ioctl(v->vm.cpu, KVM_GET_VCPU_EVENTS, &s.events) < 0)
		return err_set(e, -errno, "cannot read the virtual CPU's state: %s", strerror(errno));
	put_u16(out, STATE_VERSION);
	put_u16(out, sizeof s);
	put_u64(out, (uint64_t)(v->dirty_rate * 1e6));
	put_bytes(out, &s, sizeof s);
	return out->bad ? err_set(e, -EMSGSIZE, "the guest's state is too large: this is a bug") : 0;
}

static int kvm_load(struct guest *g, struct rcur *in, struct err *e)
{
	struct vm *v = vm_of(g);
	uint16_t version = get_u16(in), size = get_u16(in);
	double rate = (double)get_u64(in) / 1e6;
	struct cpu_state s;

	get_bytes(in, &s, sizeof s);
	if (in->bad || version != STATE_VERSION || size != sizeof s || rate > 1e6)
		return err_set(e, -EPROTO,
			       "the guest's state is of another version or damaged: install the same dwcp release on "
			       "both hosts");
	v->dirty_rate = rate;
	v->seen = (uint32_t)s.regs.rbx;
	if (ioctl(v->vm.cpu, KVM_SET_SREGS, &s.sregs) < 0 || ioctl(v->vm.cpu, KVM_SET_REGS, &s.regs) < 0 ||
	    ioctl(v->vm.cpu, KVM_SET_FPU, &s.fpu) < 0 || ioctl(v->vm.cpu, KVM_SET_VCPU_EVENTS, &s.events) < 0)
		return err_set(e, -errno, "this host's KVM refuses the virtual CPU's state: %s", strerror(errno));
	return 0;
}

/* Stopped in the middle of a write, the registers are ahead of memory, as in any computer: steps to the end of it. */
static int finish_write(struct vm *v, struct kvm_regs *r, struct err *e)
{
	struct kvm_guest_debug step = { .control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP }, off = { 0 };
	const uint64_t next = PROGRAM_AT + program_bytes(kvm_program_next);
	int left = STEPS_MAX;

	if (ioctl(v->vm.cpu, KVM_GET_REGS, r) < 0)
		goto bad;
	if (r->rip <= next)
		return 0;
	v->vm.run->immediate_exit = 0;
	if (ioctl(v->vm.cpu, KVM_SET_GUEST_DEBUG, &step) < 0)
		goto bad;
	while (r->rip > next && left--)
		if ((ioctl(v->vm.cpu, KVM_RUN, 0) < 0 && errno != EINTR) || ioctl(v->vm.cpu, KVM_GET_REGS, r) < 0)
			goto bad;
	if (ioctl(v->vm.cpu, KVM_SET_GUEST_DEBUG, &off) < 0)
		goto bad;
	return r->rip > next ? err_set(e, -EBADMSG, "the virtual CPU is outside its program") : 0;
bad:
	return err_set(e, -errno, "cannot step the virtual CPU: %s", strerror(errno));
}

static int kvm_check(struct guest *g, struct err *e)
{
	struct vm *v = vm_of(g);
	uint32_t writes = 0, sum = 0;
	struct kvm_regs r;
	int rc = finish_write(v, &r, e);

	if (rc < 0)
		return rc;
	for (uint64_t at = PAGES_AT; at < g->len; at += GUEST_PAGE) {
		const uint32_t *page = (const uint32_t *)(const void *)(g->mem + at);

		writes += page[0];
		sum += page[1];
	}
	if (writes != (uint32_t)r.rbx || sum != (uint32_t)r.rcx)
		return err_set(
			e, -EBADMSG,
			"the virtual machine counts %u writes, its memory holds %u, and their sum is %s: a write was "
			"lost or repeated",
			(uint32_t)r.rbx, writes, sum == (uint32_t)r.rcx ? "right" : "wrong");
	return 0;
}

static void kvm_throttle(struct guest *g, unsigned percent)
{
	__atomic_store_n(&vm_of(g)->throttle, percent > 99 ? 99 : percent, __ATOMIC_RELAXED);
}

static void kvm_work(const struct guest *g, struct guest_work *out)
{
	*out = (struct guest_work){ .writes = __atomic_load_n(&vm_of(g)->seen, __ATOMIC_RELAXED),
				    .pages = (g->len - PAGES_AT) / GUEST_PAGE };
}

/* ---- for trackers ----------------------------------------------------------------------------- */

int kvm_guest_log(struct guest *g, bool on, struct err *e)
{
	return kvm_vm_log(&vm_of(g)->vm, on, e);
}

int kvm_guest_fd(const struct guest *g)
{
	return vm_of(g)->vm.fd;
}

struct kvm_ring *kvm_guest_ring(struct guest *g)
{
	struct kvm_ring *r = &vm_of(g)->vm.ring;

	return r->entry ? r : NULL;
}

const struct guest_ops guest_kvm_ops = {
	.name = "kvm",
	.help = "a virtual machine of KVM with a program of our own",
	.opts = rows,
	.n_opts = ARRAY_LEN(rows),
	.opts_size = sizeof(struct kvm_opts),
	.kernel = true,
	.probe = kvm_vm_probe,
	.open = kvm_open,
	.close = kvm_close,
	.run = kvm_run,
	.pause = kvm_pause,
	.halt = kvm_halt,
	.save = kvm_save,
	.load = kvm_load,
	.check = kvm_check,
	.throttle = kvm_throttle,
	.work = kvm_work,
};
