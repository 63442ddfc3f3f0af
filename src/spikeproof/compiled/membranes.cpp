// Loops over time of layers of neurons, forward and backward, each as one pass over memory.
//
// Every number is rounded as by the operations of PyTorch that the written loops use, in their order: products and
// sums apart (-ffp-contract=off), except where torch.addcmul rounds once, as FUSED says of this PyTorch. Neurons are
// computed in blocks that stay in the processor's first cache, for all steps before the next block.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

constexpr int64_t BLOCK = 1024;

enum Kind { INTEGRATING, CURRENT_BASED, ADAPTIVE, PARAMETRIC, FILTERING };
enum Reset { BY_SUBTRACTION, TO_ZERO };
enum Slope { GIVEN, ATAN, TRIANGLE, RECTANGLE, FAST_SIGMOID, STRAIGHT };

}  // namespace

// What a loop reads and writes; the fields of `Job` in loops.py, in their order.
struct Job {
    int64_t steps, size, threads;
    int64_t kind, reset, detached, scales_input;
    int64_t slope, has_unit;
    double slope_a, slope_b, unit;
    double threshold, decay, second_decay, gain, strength;
    int64_t current_stride, gradient_stride;  // 0: the same at every step
    int64_t summed, interleaved_from;         // see sum_over_time
    const void *current, *start, *second_start;       // [T, N], [N], [N]
    const void *decays, *second_decays;               // [N], of neurons that learn them
    void *spikes, *potentials, *end, *second_end;     // [T, N], [T, N] or none, [N], [N]
    const void *slopes;                               // [T, N], of surrogates that are given as numbers
    const void *by_spikes, *by_end, *by_second_end;   // [T, N], [N] or none, [N] or none
    void *by_current, *by_start, *by_second_start;    // [T, N] or, summed over time, [N]; [N]; [N]
    void *by_decays, *by_second_decays;               // [N] or none
};

namespace {

template <typename S>
inline S after_product(S sum, S one, S other) {
    return FUSED ? std::fma(one, other, sum) : sum + one * other;
}

template <typename S, int RESET>
inline S after_reset(S v, S z, S threshold) {
    return RESET == BY_SUBTRACTION ? v - threshold * z : v * (S(1) - z);
}

template <typename S>
struct Constants {
    S threshold, decay, second_decay, gain, strength;
    explicit Constants(const Job &job)
        : threshold(S(job.threshold)), decay(S(job.decay)), second_decay(S(job.second_decay)),
          gain(S(job.gain)), strength(S(job.strength)) {}
};

template <typename S>
const S *from(const void *values, int64_t first) {
    return values ? static_cast<const S *>(values) + first : nullptr;
}

template <typename S>
S *into(void *values, int64_t first) {
    return values ? static_cast<S *>(values) + first : nullptr;
}

template <typename S>
void copy_or_zero(const void *values, int64_t first, int64_t count, S *to) {
    if (values) std::copy_n(from<S>(values, first), count, to);
    else std::fill_n(to, count, S(0));
}

template <typename S, int KIND, int RESET>
void forward_block(const Job &job, int64_t first, int64_t count) {
    const Constants<S> c(job);
    S v[BLOCK], second[BLOCK];
    copy_or_zero(job.start, first, count, v);
    copy_or_zero(job.second_start, first, count, second);
    const S *decays = from<S>(job.decays, first);
    const S *second_decays = from<S>(job.second_decays, first);
    S dropped[BLOCK];
    for (int64_t t = 0; t < job.steps; ++t) {
        const S *in = from<S>(job.current, t * job.current_stride + first);
        S *__restrict out = into<S>(job.spikes, t * job.size + first);
        S *__restrict kept = job.potentials ? into<S>(job.potentials, t * job.size + first) : dropped;
        for (int64_t j = 0; j < count; ++j) {
            S before;
            if (KIND == INTEGRATING) before = c.decay * v[j] + in[j];
            if (KIND == CURRENT_BASED) {
                second[j] = c.second_decay * second[j] + c.gain * in[j];
                before = c.decay * v[j] + second[j];
            }
            if (KIND == ADAPTIVE) before = decays[j] * v[j] + in[j];
            if (KIND == PARAMETRIC)
                before = v[j] - decays[j] * v[j] + (job.scales_input ? decays[j] * in[j] : in[j]);
            S above = before - c.threshold;
            if (KIND == ADAPTIVE) above = above - c.strength * second[j];
            const S z = above >= S(0) ? S(1) : S(0);
            out[j] = z;
            kept[j] = before;
            v[j] = after_reset<S, RESET>(before, z, c.threshold);
            if (KIND == ADAPTIVE) second[j] = second_decays[j] * second[j] + z;
        }
    }
    std::copy_n(v, count, into<S>(job.end, first));
    if (job.second_end) std::copy_n(second, count, into<S>(job.second_end, first));
}

// The derivative of the spike function at the distances x from the threshold, which it replaces.
template <typename S>
void derivative(const Job &job, int64_t count, S *__restrict x) {
    const S a = S(job.slope_a), b = S(job.slope_b), unit = S(job.unit);
    if (job.has_unit)
        for (int64_t j = 0; j < count; ++j) x[j] = x[j] / unit;
    switch (job.slope) {
        case ATAN:
            for (int64_t j = 0; j < count; ++j) {
                const S scaled = a * x[j];
                x[j] = (S(1) / (scaled * scaled + S(1))) * b;
            }
            break;
        case TRIANGLE:
            for (int64_t j = 0; j < count; ++j) {
                const S height = a - std::abs(x[j]);
                x[j] = (height < S(0) ? S(0) : height) / b;
            }
            break;
        case RECTANGLE:
            for (int64_t j = 0; j < count; ++j) x[j] = (std::abs(x[j]) < a ? S(1) : S(0)) / b;
            break;
        case FAST_SIGMOID:
            for (int64_t j = 0; j < count; ++j) {
                const S wide = S(1) + a * std::abs(x[j]);
                x[j] = (S(1) / (wide * wide)) * b;
            }
            break;
        default:
            std::fill_n(x, count, S(1));
    }
    if (job.has_unit)
        for (int64_t j = 0; j < count; ++j) x[j] = x[j] / unit;
}

// Adds up rows first, first + stride, ... in four levels of partial sums, as torch.sum does against loss of digits.
template <typename S>
void add_up(int64_t steps, int64_t first, int64_t stride, int64_t from, int64_t to, const S *rows, S *out) {
    int64_t bits = 0;
    while ((int64_t(1) << bits) < steps) ++bits;
    const int64_t power = std::max<int64_t>(4, bits / 4), wide = int64_t(1) << power, mask = wide - 1;
    std::vector<S> sums(4 * BLOCK, S(0));
    int64_t t = 0;
    const auto add = [&](int64_t until) {
        for (; t < until; ++t) {
            const S *row = rows + (first + t * stride) * BLOCK;
            for (int64_t j = from; j < to; ++j) sums[j] += row[j];
        }
    };
    while (t + wide <= steps) {
        add(t + wide);
        for (int64_t level = 1; level < 4; ++level) {
            S *__restrict higher = sums.data() + level * BLOCK, *__restrict lower = higher - BLOCK;
            for (int64_t j = from; j < to; ++j) {
                higher[j] += lower[j];
                lower[j] = S(0);
            }
            if (t & (mask << (level * power))) break;
        }
    }
    add(steps);
    for (int64_t level = 1; level < 4; ++level)
        for (int64_t j = from; j < to; ++j) sums[j] += sums[level * BLOCK + j];
    std::copy(sums.begin() + from, sums.begin() + to, out + from);
}

// Sums over time in the order of torch.sum on one thread, which takes the last neurons in four interleaved sums.
template <typename S>
void sum_over_time(const Job &job, int64_t first, int64_t count, const S *rows, S *out) {
    const int64_t steps = job.steps, even = std::clamp<int64_t>(job.interleaved_from - first, 0, count);
    if (even) add_up(steps, 0, 1, 0, even, rows, out);
    if (even == count) return;
    const int64_t quarter = steps / 4;
    std::vector<S> parts(4 * BLOCK, S(0));
    for (int64_t k = 0; k < 4; ++k) add_up(quarter, k, 4, even, count, rows, parts.data() + k * BLOCK);
    for (int64_t t = 4 * quarter; t < steps; ++t)
        for (int64_t j = even; j < count; ++j) parts[j] += rows[t * BLOCK + j];
    for (int64_t k = 1; k < 4; ++k)
        for (int64_t j = even; j < count; ++j) parts[j] += parts[k * BLOCK + j];
    std::copy(parts.begin() + even, parts.begin() + count, out + even);
}

template <typename S, int KIND, int RESET, bool DETACHED>
void backward_block(const Job &job, int64_t first, int64_t count, std::vector<S> &traces, std::vector<S> &rows) {
    const Constants<S> c(job);
    S by_v[BLOCK], by_second[BLOCK], by_decay[BLOCK] = {}, by_second_decay[BLOCK] = {}, slope[BLOCK];
    copy_or_zero(job.by_end, first, count, by_v);
    copy_or_zero(job.by_second_end, first, count, by_second);
    const S *decays = from<S>(job.decays, first);
    const S *second_decays = from<S>(job.second_decays, first);
    const S *potentials = from<S>(job.potentials, first);
    S last[BLOCK];  // the potential that a step began with
    const bool learns = job.by_decays != nullptr, scales = job.scales_input;
    if (KIND == ADAPTIVE) {  // the trace of spikes before every step, from the potentials
        traces.resize(job.steps * BLOCK);
        copy_or_zero(job.second_start, first, count, traces.data());
        for (int64_t t = 0; t + 1 < job.steps; ++t) {
            const S *before = potentials + t * job.size;
            S *__restrict now = traces.data() + t * BLOCK, *__restrict next = now + BLOCK;
            for (int64_t j = 0; j < count; ++j) {
                const S z = before[j] - c.threshold - c.strength * now[j] >= S(0) ? S(1) : S(0);
                next[j] = second_decays[j] * now[j] + z;
            }
        }
    }
    if (job.summed) rows.resize(job.steps * BLOCK);
    for (int64_t t = job.steps - 1; t >= 0; --t) {
        const S *before = potentials + t * job.size, *trace = traces.data() + t * BLOCK;
        const S *given = from<S>(job.by_spikes, t * job.gradient_stride + first);
        S *__restrict out = job.summed ? rows.data() + t * BLOCK
                                       : into<S>(job.by_current, t * job.size + first);
        S above[BLOCK];
        for (int64_t j = 0; j < count; ++j) {
            above[j] = before[j] - c.threshold;
            if (KIND == ADAPTIVE) above[j] = above[j] - c.strength * trace[j];
        }
        if (job.slope == GIVEN) {
            std::copy_n(from<S>(job.slopes, t * job.size + first), count, slope);
        } else {
            std::copy_n(above, count, slope);
            derivative(job, count, slope);
        }
        if (learns && KIND != INTEGRATING && KIND != CURRENT_BASED) {
            if (t == 0) copy_or_zero(job.start, first, count, last);
            for (int64_t j = 0; t > 0 && j < count; ++j) {
                const S earlier = before[j - job.size];
                S excess = earlier - c.threshold;
                if (KIND == ADAPTIVE) excess = excess - c.strength * trace[j - BLOCK];
                last[j] = after_reset<S, RESET>(earlier, excess >= S(0) ? S(1) : S(0), c.threshold);
            }
        }
        const S *in = from<S>(job.current, t * job.current_stride + first);
        for (int64_t j = 0; j < count; ++j) {
            const S z = above[j] >= S(0) ? S(1) : S(0);
            S by_z = given[j], carried = by_v[j];
            if (KIND == ADAPTIVE) by_z = by_z + by_second[j];
            if (!DETACHED) by_z = by_z + carried * (RESET == BY_SUBTRACTION ? -c.threshold : -before[j]);
            if (RESET == TO_ZERO) carried = carried * (S(1) - z);
            const S by_above = by_z * slope[j];
            const S by_before = KIND == INTEGRATING ? after_product(carried, by_z, slope[j]) : carried + by_above;
            if (KIND == INTEGRATING) {
                out[j] = by_before;
                by_v[j] = by_before * c.decay;
            }
            if (KIND == CURRENT_BASED) {
                const S by_i = by_second[j] + by_before;
                out[j] = by_i * c.gain;
                by_second[j] = by_i * c.second_decay;
                by_v[j] = by_before * c.decay;
            }
            if (KIND == ADAPTIVE) {
                out[j] = by_before;
                by_v[j] = by_before * decays[j];
                if (learns) {
                    by_decay[j] += by_before * last[j];
                    by_second_decay[j] += by_second[j] * trace[j];
                }
                by_second[j] = by_second[j] * second_decays[j] - by_above * c.strength;
            }
            if (KIND == PARAMETRIC) {
                out[j] = scales ? by_before * decays[j] : by_before;
                by_v[j] = by_before - by_before * decays[j];
                if (learns) by_decay[j] += by_before * ((scales ? in[j] : S(0)) - last[j]);
            }
        }
    }
    if (job.summed) sum_over_time(job, first, count, rows.data(), into<S>(job.by_current, first));
    std::copy_n(by_v, count, into<S>(job.by_start, first));
    if (job.by_second_start) std::copy_n(by_second, count, into<S>(job.by_second_start, first));
    if (job.by_decays) std::copy_n(by_decay, count, into<S>(job.by_decays, first));
    if (job.by_second_decays)
        std::copy_n(by_second_decay, count, into<S>(job.by_second_decays, first));
}

// An exponential filter without spikes: from inputs to its output, or from gradients back to its input.
template <typename S>
void filter_block(const Job &job, bool back, int64_t first, int64_t count, std::vector<S> &rows) {
    const Constants<S> c(job);
    S v[BLOCK];
    copy_or_zero(back ? job.by_end : job.start, first, count, v);
    if (back && job.summed) rows.resize(job.steps * BLOCK);
    for (int64_t k = 0; k < job.steps; ++k) {
        const int64_t t = back ? job.steps - 1 - k : k;
        if (back) {
            const S *given = from<S>(job.by_spikes, t * job.gradient_stride + first);
            S *__restrict out =
                job.summed ? rows.data() + t * BLOCK : into<S>(job.by_current, t * job.size + first);
            for (int64_t j = 0; j < count; ++j) {
                const S by_v = given[j] + v[j];
                out[j] = by_v * c.gain;
                v[j] = by_v * c.decay;
            }
        } else {
            const S *in = from<S>(job.current, t * job.current_stride + first);
            S *__restrict out = into<S>(job.spikes, t * job.size + first);
            for (int64_t j = 0; j < count; ++j) out[j] = v[j] = c.decay * v[j] + c.gain * in[j];
        }
    }
    if (back && job.summed) sum_over_time(job, first, count, rows.data(), into<S>(job.by_current, first));
    std::copy_n(v, count, into<S>(back ? job.by_start : job.end, first));
}

template <typename S>
void filter(const Job &job, bool back) {
    const int64_t blocks = (job.size + BLOCK - 1) / BLOCK;
#pragma omp parallel num_threads(job.threads) if (job.threads > 1)
    {
        std::vector<S> rows;
#pragma omp for
        for (int64_t b = 0; b < blocks; ++b)
            filter_block<S>(job, back, b * BLOCK, std::min(BLOCK, job.size - b * BLOCK), rows);
    }
}

template <typename S, int KIND, int RESET>
void forward(const Job &job) {
    const int64_t blocks = (job.size + BLOCK - 1) / BLOCK;
#pragma omp parallel for num_threads(job.threads) if (job.threads > 1)
    for (int64_t b = 0; b < blocks; ++b)
        forward_block<S, KIND, RESET>(job, b * BLOCK, std::min(BLOCK, job.size - b * BLOCK));
}

template <typename S, int KIND, int RESET, bool DETACHED>
void backward(const Job &job) {
    const int64_t blocks = (job.size + BLOCK - 1) / BLOCK;
#pragma omp parallel num_threads(job.threads) if (job.threads > 1)
    {
        std::vector<S> traces, rows;
#pragma omp for
        for (int64_t b = 0; b < blocks; ++b)
            backward_block<S, KIND, RESET, DETACHED>(job, b * BLOCK, std::min(BLOCK, job.size - b * BLOCK), traces,
                                                     rows);
    }
}

template <typename S, int KIND>
void run_kind(const Job &job, bool back) {
    const bool zero = job.reset == TO_ZERO;
    if (!back) return zero ? forward<S, KIND, TO_ZERO>(job) : forward<S, KIND, BY_SUBTRACTION>(job);
    if (job.detached) return zero ? backward<S, KIND, TO_ZERO, true>(job) : backward<S, KIND, BY_SUBTRACTION, true>(job);
    return zero ? backward<S, KIND, TO_ZERO, false>(job) : backward<S, KIND, BY_SUBTRACTION, false>(job);
}

template <typename S>
void run(const Job &job, bool back) {
    switch (job.kind) {
        case INTEGRATING: return run_kind<S, INTEGRATING>(job, back);
        case CURRENT_BASED: return run_kind<S, CURRENT_BASED>(job, back);
        case ADAPTIVE: return run_kind<S, ADAPTIVE>(job, back);
        case PARAMETRIC: return run_kind<S, PARAMETRIC>(job, back);
        default: return filter<S>(job, back);
    }
}

}  // namespace

extern "C" {
void forward_single(const Job *job) { run<float>(*job, false); }
void forward_double(const Job *job) { run<double>(*job, false); }
void backward_single(const Job *job) { run<float>(*job, true); }
void backward_double(const Job *job) { run<double>(*job, true); }
}
