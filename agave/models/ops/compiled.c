/* Nonlinearities and likelihoods, each in one pass over memory. Compiled on first use by compiled.py.
 *
 * Tensors are contiguous with channels last, (B, H, W, C), as float or as bfloat16, which is the upper half of a float. The part
 * below the includes is compiled once for each of the two: T is the type, GET and PUT go to float and back, NAME adds the suffix.
 */

#ifndef T

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define EACH _Pragma("omp parallel for schedule(static) num_threads(threads)")
#define LANES _Pragma("omp simd")

/* A function of the pixels of a row. Each is compiled once for every number of channels c below: loops over few channels are twice as
 * fast if their length is known. */
#define FEW 8 /* pixels at once */
#define ROW static inline __attribute__((always_inline)) void
#define CASE(size, call) \
    case size: { \
        enum { c = size }; \
        call; \
        break; \
    }
#define WITH_SIZE(channels, call) \
    switch (channels) { \
        CASE(4, call) CASE(6, call) CASE(8, call) CASE(16, call) CASE(32, call) \
        default: { \
            const int64_t c = channels; \
            call; \
        } \
    }

static inline float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

static inline uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

/* exp(-|x|), relative error 1e-7: 2^t = 2^i 2^f with i the nearest integer, and a polynomial for 2^f, f in [-1/2, 1/2]. */
static inline float exp_minus_abs(float x) {
    float t = fabsf(x) * -1.44269504089f;
    t = t < -126.0f ? -126.0f : t;
    float shifted = t + 12582912.0f; /* 1.5 * 2^23: the last bits are the integer */
    float f = t - (shifted - 12582912.0f), power = float_of((bits_of(shifted) - 0x4b400000u + 127u) << 23);
    float p = 1.54697320e-04f;
    p = p * f + 1.34004322e-03f;
    p = p * f + 9.61802560e-03f;
    p = p * f + 5.55032721e-02f;
    p = p * f + 2.40226512e-01f;
    p = p * f + 6.93147207e-01f;
    return (p * f + 1.0f) * power;
}

/* elu(x) given e = exp(-|x|) - 1; written so that nan stays nan. */
static inline float elu(float x, float e) { return x < e ? e : x; }

/* Slope of scale * elu at a point with this result. */
static inline float slope(float result, float scale) { return result > 0 ? scale : result + scale; }

static inline float sigmoid(float x) {
    float e = exp_minus_abs(x);
    return (x < 0 ? e : 1.0f) / (1.0f + e);
}

/* Natural logarithm of a positive normal number, error 1e-7: the exponent, and a series in (m - 1) / (m + 1), m in [0.7, 1.41]. */
static inline float log_of(float x) {
    uint32_t shifted = bits_of(x) - 0x3f3504f3u; /* bits of the square root of 1/2 */
    float exponent = (float)((int32_t)shifted >> 23), m = float_of((shifted & 0x7fffffu) + 0x3f3504f3u);
    float s = (m - 1.0f) / (m + 1.0f), z = s * s;
    float p = 0.11808637f;
    p = p * z + 0.14267499f;
    p = p * z + 0.20000193f;
    p = p * z + 0.33333333f;
    return exponent * 0.69314718f + 2.0f * s * (p * z + 1.0f);
}

static inline float log_sigmoid(float x) { return (x < 0 ? x : 0.0f) - log_of(1.0f + exp_minus_abs(x)); }

static inline float tanh_of(float x) {
    float e = exp_minus_abs(2.0f * x), t = (1.0f - e) / (1.0f + e);
    return x < 0 ? -t : t;
}

static inline float widen(uint16_t x) { return float_of((uint32_t)x << 16); }

static inline uint16_t narrow(float x) { /* to nearest, ties to even */
    uint32_t bits = bits_of(x), rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return (uint16_t)(x == x ? rounded : 0x7fc0u);
}

typedef struct {
    int64_t batch, height, width, channels, left, right, top, bottom;
} Shape;

#define PIXELS 64 /* at once: what a block needs stays in the first cache */

/* likelihoods.mixture_log_prob and its gradient: logits (B, 10 K, N) of N pixels in the layout of split_logits, values (B, 3, N) of
 * 8 bits -> log_prob (B, N) in nats and grad (B, 10 K, N), its derivative by the logits. */
void mixture_log_prob_float32(const float *restrict logits, const uint8_t *restrict values, float *restrict log_prob,
                              float *restrict grad, int64_t batch, int64_t mixtures, int64_t pixels, int threads) {
    const int64_t blocks = (pixels + PIXELS - 1) / PIXELS, parts = 10 * mixtures;
    EACH
    for (int64_t item = 0; item < batch * blocks; item++) {
        const int64_t b = item / blocks, first = item % blocks * PIXELS;
        const int64_t n = pixels - first < PIXELS ? pixels - first : PIXELS;
        const float *restrict in = logits + b * parts * pixels + first;
        float *restrict out = grad + b * parts * pixels + first;
        float x[3][PIXELS], top[PIXELS], sum[PIXELS], joint_top[PIXELS], joint_sum[PIXELS], joint[mixtures][PIXELS];
        for (int c = 0; c < 3; c++)
            for (int64_t i = 0; i < n; i++) x[c][i] = (values[(b * 3 + c) * pixels + first + i] - 127.5f) / 127.5f;
        for (int64_t i = 0; i < n; i++) top[i] = in[i];
        for (int64_t k = 1; k < mixtures; k++)
            for (int64_t i = 0; i < n; i++) top[i] = top[i] < in[k * pixels + i] ? in[k * pixels + i] : top[i];
        for (int64_t i = 0; i < n; i++) sum[i] = 0.0f;
        for (int64_t k = 0; k < mixtures; k++)
            for (int64_t i = 0; i < n; i++) sum[i] += exp_minus_abs(top[i] - in[k * pixels + i]);
        for (int64_t k = 0; k < mixtures; k++) {
            for (int64_t i = 0; i < n; i++) joint[k][i] = in[k * pixels + i] - top[i] - log_of(sum[i]);
            for (int c = 0; c < 3; c++) {
                /* the three groups are R, G, B, each means, log-scales, coefficients */
                const int64_t mean = (mixtures * (1 + 3 * c) + k) * pixels, scale = mean + mixtures * pixels;
                const int64_t red_green = (3 * mixtures + k) * pixels, red_blue = (6 * mixtures + k) * pixels;
                const int64_t green_blue = (9 * mixtures + k) * pixels;
                LANES
                for (int64_t i = 0; i < n; i++) {
                    float centre = in[mean + i];
                    if (c == 1) centre += tanh_of(in[red_green + i]) * x[0][i];
                    if (c == 2) centre += tanh_of(in[red_blue + i]) * x[0][i] + tanh_of(in[green_blue + i]) * x[1][i];
                    float raw = in[scale + i], s = raw < -7.0f ? -7.0f : raw;
                    s = s < 80.0f ? s : 80.0f;
                    float inverse = s < 0 ? 1.0f / exp_minus_abs(s) : exp_minus_abs(s);
                    float lower = (x[c][i] - centre - 1.0f / 255.0f) * inverse, upper = (x[c][i] - centre + 1.0f / 255.0f) * inverse;
                    float width = 2.0f / 255.0f * inverse, far = exp_minus_abs(width);
                    /* 1 - exp(-width), by its series where the difference would lose digits */
                    float series = width * (1.0f - width * (0.5f - width * (1.0f / 6 - width * (1.0f / 24 - width * (1.0f / 120)))));
                    float inside = width < 0.25f ? series : 1.0f - far;
                    float is_first = x[c][i] < -0.999f ? 0.0f : 1.0f, is_last = x[c][i] > 0.999f ? 0.0f : 1.0f;
                    joint[k][i] += is_last * log_sigmoid(upper) + is_first * log_sigmoid(-lower) + is_first * is_last * log_of(inside);
                    float by_upper = is_last * sigmoid(-upper), by_lower = -is_first * sigmoid(lower);
                    out[mean + i] = -(by_upper + by_lower) * inverse;
                    out[scale + i] = (raw < -7.0f ? 0.0f : -1.0f) *
                                     (by_upper * upper + by_lower * lower + is_first * is_last * width * far / inside);
                }
            }
        }
        for (int64_t i = 0; i < n; i++) joint_top[i] = joint[0][i];
        for (int64_t k = 1; k < mixtures; k++)
            for (int64_t i = 0; i < n; i++) joint_top[i] = joint_top[i] < joint[k][i] ? joint[k][i] : joint_top[i];
        for (int64_t i = 0; i < n; i++) joint_sum[i] = 0.0f;
        for (int64_t k = 0; k < mixtures; k++)
            for (int64_t i = 0; i < n; i++) joint_sum[i] += exp_minus_abs(joint_top[i] - joint[k][i]);
        for (int64_t i = 0; i < n; i++) log_prob[b * pixels + first + i] = joint_top[i] + log_of(joint_sum[i]);
        for (int64_t k = 0; k < mixtures; k++) {
            const int64_t p = k * pixels, step = mixtures * pixels;
            LANES
            for (int64_t i = 0; i < n; i++) {
                float share = exp_minus_abs(joint_top[i] - joint[k][i]) / joint_sum[i]; /* of the component, given the pixel */
                out[p + i] = share - exp_minus_abs(top[i] - in[p + i]) / sum[i];
                for (int part = 1; part < 9; part++)
                    if (part % 3 != 0) out[p + part * step + i] *= share;
                float red_green = tanh_of(in[p + 3 * step + i]), red_blue = tanh_of(in[p + 6 * step + i]);
                float green_blue = tanh_of(in[p + 9 * step + i]);
                out[p + 3 * step + i] = out[p + 4 * step + i] * x[0][i] * (1.0f - red_green * red_green);
                out[p + 6 * step + i] = out[p + 7 * step + i] * x[0][i] * (1.0f - red_blue * red_blue);
                out[p + 9 * step + i] = out[p + 7 * step + i] * x[1][i] * (1.0f - green_blue * green_blue);
            }
        }
    }
}

/* likelihoods.softmax_log_prob: logits (n, L) and values (n) -> log_prob (n) and log_sum (n), log sum exp of the logits of a row. */
void softmax_log_prob_float32(const float *restrict logits, const uint8_t *restrict values, float *restrict log_prob,
                              float *restrict log_sum, int64_t n, int64_t levels, int threads) {
    EACH
    for (int64_t r = 0; r < n; r++) {
        const float *restrict row = logits + r * levels;
        float top = row[0], sum = 0.0f;
        _Pragma("omp simd reduction(max : top)")
        for (int64_t i = 0; i < levels; i++) top = top < row[i] ? row[i] : top;
        _Pragma("omp simd reduction(+ : sum)")
        for (int64_t i = 0; i < levels; i++) sum += exp_minus_abs(top - row[i]);
        log_sum[r] = top + logf(sum);
        log_prob[r] = row[values[r]] - log_sum[r];
    }
}

/* Its derivative by the logits, times grad (n). */
void softmax_log_prob_backward_float32(const float *restrict grad, const float *restrict logits, const uint8_t *restrict values,
                                       const float *restrict log_sum, float *restrict grad_logits, int64_t n, int64_t levels,
                                       int threads) {
    EACH
    for (int64_t r = 0; r < n; r++) {
        const float *restrict row = logits + r * levels;
        float *restrict to = grad_logits + r * levels, g = grad[r], l = log_sum[r];
        for (int64_t i = 0; i < levels; i++) to[i] = -g * exp_minus_abs(l - row[i]);
        to[values[r]] += g;
    }
}

#define T float
#define NAME(name) name##_float32
#define GET(x) (x)
#define PUT(x) (x)
#include "compiled.c"
#undef T
#undef NAME
#undef GET
#undef PUT

#define T uint16_t
#define NAME(name) name##_bfloat16
#define GET(x) widen(x)
#define PUT(x) narrow(x)
#include "compiled.c"

#else

void NAME(elu_forward)(const T *restrict x, T *restrict out, int64_t n, int threads) {
    EACH
    for (int64_t i = 0; i < n; i++) {
        float v = GET(x[i]);
        out[i] = PUT(elu(v, exp_minus_abs(v) - 1.0f));
    }
}

void NAME(elu_backward)(const T *restrict grad, const T *restrict out, T *restrict grad_x, int64_t n, int threads) {
    EACH
    for (int64_t i = 0; i < n; i++) grad_x[i] = PUT(GET(grad[i]) * slope(GET(out[i]), 1.0f));
}

/* scale * elu(x) and scale * elu(-x) of n values. */
ROW NAME(elu_of_both)(const T *restrict x, T *restrict plus, T *restrict minus, int64_t n, float scale) {
    for (int64_t i = 0; i < n; i++) {
        float v = GET(x[i]), e = exp_minus_abs(v) - 1.0f;
        plus[i] = PUT(scale * elu(v, e));
        minus[i] = PUT(scale * elu(-v, e));
    }
}

/* `concat_elu_forward` of n pixels, which lie side by side. */
ROW NAME(concat_elu_forward_row)(const T *restrict x, const uint8_t *restrict keep, T *restrict to, T *restrict active, int64_t n,
                                 float scale, const int64_t c) {
    T plus[FEW * c], minus[FEW * c];
    for (int64_t p = 0; p < n; p += c % 8 == 0 ? 1 : FEW) {
        if (c % 8 == 0) { /* the channels of a pixel fill vectors */
            NAME(elu_of_both)(x + p * c, to + p * 2 * c, to + p * 2 * c + c, c, scale);
            continue;
        }
        const int64_t count = n - p < FEW ? n - p : FEW;
        NAME(elu_of_both)(x + p * c, plus, minus, count * c, scale);
        for (int64_t q = 0; q < count; q++) {
            memcpy(to + (p + q) * 2 * c, plus + q * c, c * sizeof(T));
            memcpy(to + (p + q) * 2 * c + c, minus + q * c, c * sizeof(T));
        }
    }
    if (keep)
        for (int64_t i = 0; i < n * 2 * c; i++) to[i] = keep[i] ? to[i] : 0;
    if (active) memcpy(active, to, n * 2 * c * sizeof(T));
}

/* x (B, H, W, C) -> padded (B, top + H + bottom, left + W + right, 2 C): scale * elu([x, -x]) with zeros around; and, if wanted, the
 * same without the zeros. Where keep (B, H, W, 2 C) is given, a byte of 0 drops an element. */
void NAME(concat_elu_forward)(const T *restrict x, const uint8_t *restrict keep, T *restrict padded, T *restrict active, Shape s,
                              float scale, int threads) {
    const int64_t rows = s.top + s.height + s.bottom, pixel = 2 * s.channels, row = (s.left + s.width + s.right) * pixel;
    EACH
    for (int64_t r = 0; r < s.batch * rows; r++) {
        const int64_t b = r / rows, h = r % rows - s.top;
        T *to = padded + r * row;
        if (h < 0 || h >= s.height) {
            memset(to, 0, row * sizeof(T));
            continue;
        }
        memset(to, 0, s.left * pixel * sizeof(T));
        memset(to + (s.left + s.width) * pixel, 0, s.right * pixel * sizeof(T));
        to += s.left * pixel;
        const int64_t from = (b * s.height + h) * s.width;
        const uint8_t *kept = keep ? keep + from * pixel : 0;
        T *inside = active ? active + from * pixel : 0;
        WITH_SIZE(s.channels, NAME(concat_elu_forward_row)(x + from * c, kept, to, inside, s.width, scale, c))
    }
}

/* `concat_elu_backward` of n pixels, which lie side by side. */
ROW NAME(concat_elu_backward_row)(const T *restrict g, const T *restrict a, const T *restrict out, const uint8_t *restrict keep,
                                  T *restrict to, int64_t n, float scale, const int64_t c) {
    float both[FEW * 2 * c]; /* gradients of the arguments of elu, x and -x */
    for (int64_t first = 0; first < n; first += FEW) {
        const int64_t at = first * 2 * c, count = n - first < FEW ? n - first : FEW;
        if (g && a)
            for (int64_t i = 0; i < count * 2 * c; i++) both[i] = slope(GET(out[at + i]), scale) * (GET(g[at + i]) + GET(a[at + i]));
        else {
            const T *restrict one = g ? g : a;
            for (int64_t i = 0; i < count * 2 * c; i++) both[i] = slope(GET(out[at + i]), scale) * GET(one[at + i]);
        }
        if (keep)
            for (int64_t i = 0; i < count * 2 * c; i++) both[i] = keep[at + i] ? both[i] : 0.0f;
        for (int64_t p = 0; p < count; p++)
            for (int64_t k = 0; k < c; k++) to[(first + p) * c + k] = PUT(both[p * 2 * c + k] - both[p * 2 * c + c + k]);
    }
}

/* The gradient of x from those of the two outputs, of which either may be missing. */
void NAME(concat_elu_backward)(const T *restrict grad_padded, const T *restrict grad_active, const T *restrict padded,
                               const uint8_t *restrict keep, T *restrict grad_x, Shape s, float scale, int threads) {
    const int64_t rows = s.top + s.height + s.bottom, pixel = 2 * s.channels, row = (s.left + s.width + s.right) * pixel;
    EACH
    for (int64_t r = 0; r < s.batch * s.height; r++) {
        const int64_t inside = r * s.width, outside = (r / s.height * rows + s.top + r % s.height) * row + s.left * pixel;
        const T *g = grad_padded ? grad_padded + outside : 0, *a = grad_active ? grad_active + inside * pixel : 0;
        const uint8_t *kept = keep ? keep + inside * pixel : 0;
        WITH_SIZE(s.channels, NAME(concat_elu_backward_row)(g, a, padded + outside, kept, grad_x + inside * c, s.width, scale, c))
    }
}

ROW NAME(gate_forward_pixels)(const T *restrict t, const T *restrict pq, T *restrict out, int64_t n, const int64_t c) {
    for (int64_t i = 0; i < n; i++, t += c, pq += 2 * c, out += c)
        for (int64_t k = 0; k < c; k++) out[k] = PUT(GET(t[k]) + GET(pq[k]) * sigmoid(GET(pq[c + k])));
}

/* t (n, C) + p * sigmoid(q), with (p, q) the two halves of pq (n, 2 C). */
void NAME(gate_forward)(const T *restrict t, const T *restrict pq, T *restrict out, int64_t n, int64_t channels, int threads) {
    EACH
    for (int64_t i = 0; i < n; i += PIXELS) {
        const int64_t count = n - i < PIXELS ? n - i : PIXELS;
        WITH_SIZE(channels, NAME(gate_forward_pixels)(t + i * c, pq + 2 * i * c, out + i * c, count, c))
    }
}

ROW NAME(gate_backward_pixels)(const T *restrict g, const T *restrict pq, T *restrict to, int64_t n, const int64_t c) {
    for (int64_t i = 0; i < n; i++, g += c, pq += 2 * c, to += 2 * c)
        for (int64_t k = 0; k < c; k++) {
            float s = sigmoid(GET(pq[c + k])), by_p = GET(g[k]) * s;
            to[k] = PUT(by_p);
            to[c + k] = PUT(by_p * GET(pq[k]) * (1.0f - s));
        }
}

void NAME(gate_backward)(const T *restrict grad, const T *restrict pq, T *restrict grad_pq, int64_t n, int64_t channels, int threads) {
    EACH
    for (int64_t i = 0; i < n; i += PIXELS) {
        const int64_t count = n - i < PIXELS ? n - i : PIXELS;
        WITH_SIZE(channels, NAME(gate_backward_pixels)(grad + i * c, pq + 2 * i * c, grad_pq + 2 * i * c, count, c))
    }
}

#endif
