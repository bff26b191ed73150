// Shared bins that invocations count in, one for each of the numbers of BITS bits, and their running sums.
const BITS = {{ BITS }}u;
const BINS = {{ 2 ** BITS }}u;
const SHARE = BINS / BLOCK;  // bins of an invocation
var<workgroup> bins: array<atomic<u32>, BINS>;
var<workgroup> sums: array<u32, BLOCK>;

// Running sums of the bins, by invocation. Returns the sum of all.
fn settle(t: u32) -> u32 {
    workgroupBarrier();
    var sum = 0u;
    for (var b = t * SHARE; b < (t + 1u) * SHARE; b++) { sum += atomicLoad(&bins[b]); }
    sums[t] = sum;
    workgroupBarrier();
    for (var d = 1u; d < BLOCK; d <<= 1u) {
        var more = 0u;
        if (t >= d) { more = sums[t - d]; }
        workgroupBarrier();
        sums[t] += more;
        workgroupBarrier();
    }
    return sums[BLOCK - 1u];
}
