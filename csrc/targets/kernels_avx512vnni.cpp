// The kernels for processors that have AVX-512 with VNNI but without VBMI2: Cascade Lake, Cooper Lake.
#ifdef __AVX512VNNI__

#define TILEPRESS_TARGET avx512vnni
#include "simd/dot_vnni.hpp"
// after the operations it is written in
#include "kernels/multiply-inl.hpp"
// before the decoder that opens tiles by them
#include "codec/decode-inl.hpp"
#include "codec/entropy_lanes_avx512.hpp"
// after the lanes it is written in
#include "codec/entropy_block-inl.hpp"
// in plain loops
#include "kernels/activations-inl.hpp"
#include "kernels/attention-inl.hpp"
#include "kernels/elementwise-inl.hpp"
#include "kernels/float_rows-inl.hpp"
#include "kernels/scale_sums-inl.hpp"
#include "rounding/refinement-inl.hpp"

namespace tilepress {

extern const Kernels kAvx512VnniKernels;
const Kernels kAvx512VnniKernels{avx512vnni::decode,         avx512vnni::decode_rows,
                                 avx512vnni::decode_entropy, avx512vnni::multiply<avx512vnni::Dot>,
                                 avx512vnni::quantize,       avx512vnni::find_range,
                                 avx512vnni::scale_sums,     avx512vnni::attend,
                                 avx512vnni::round_rows,     avx512vnni::refine_rows,
                                 avx512vnni::normalize,      avx512vnni::gate,
                                 avx512vnni::multiply_floats};

}  // namespace tilepress

#endif
