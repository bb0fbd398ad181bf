// GELU with the exact Gaussian distribution function, and its derivative.
__device__ inline float gelu(float s) { return 0.5f * s * (1.0f + erff(s * 0.70710678118654752f)); }

__device__ inline float gelu_slope(float s) {
    const float distribution = 0.5f * (1.0f + erff(s * 0.70710678118654752f));
    const float density = 0.39894228040143268f * expf(-0.5f * s * s);
    return distribution + s * density;
}
