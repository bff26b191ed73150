{# Tiles of attention, as macros: import them `with context`. A workgroup owns ROWS rows; COLS rows stream past it.
   BLOCK invocations are ROWS/4 x 8: each has 4 owned rows by 4 streamed ones (or by every eighth vec4 of a row).
   A side is a tuple (buffer, first row of the head, rows between tokens, number of tokens). #}
{% set CHUNKS = (D // 4 + 7) // 8 %}

{% macro shared() %}
const ROWS = BLOCK / 2u;
const COLS = 32u;
const D4 = D / 4u;
const LOW = -3.0e38f;  // below every score
// 8 vec4 of each row at a time, and one to spread the rows over the banks. tile_a also holds ROWS x COLS probabilities.
var<workgroup> tile_a: array<vec4f, ROWS * 9u>;
var<workgroup> tile_b: array<vec4f, COLS * 9u>;

fn slot(row: u32) -> u32 { return row % 4u * 8u + row / 4u; }  // streamed rows 4x..4x+3 lie 8 apart: no bank conflicts
{% endmacro %}

{# tile[...] = chunk `chunk` of the rows from `first` of a side, zero outside #}
{% macro stage(tile, rows, side, first, chunk, place) %}
{% set x, base, step, limit = side %}
    for (var e = t; e < {{ rows }} * 8u; e += BLOCK) {
        let row = {{ first }} + e / 8u;
        let c = {{ chunk * 8 }}u + e % 8u;
        var value = vec4f(0.0);
        if (row < {{ limit }} && c < D4) { value = vec4f({{ x }}[({{ base }} + row * {{ step }}) * D4 + c]); }
        {{ tile }}[{{ place }} * 9u + e % 8u] = value;
    }
{% endmacro %}

{# s0..s3 = owned rows times streamed rows; all invocations must be done with both tiles after `workgroupBarrier` #}
{% macro scores(s, a, first, b, n) %}
    {% for i in range(4) %}
    var {{ s }}{{ i }} = vec4f(0.0);
    {% endfor %}
    {% for chunk in range(CHUNKS) %}
    workgroupBarrier();
    {{- stage("tile_a", "ROWS", a, first, chunk, "(e / 8u)") }}
    {{- stage("tile_b", "COLS", b, n, chunk, "slot(e / 8u)") }}
    workgroupBarrier();
    for (var c = 0u; c < {{ [8, D // 4 - chunk * 8] | min }}u; c++) {
        {% for j in range(4) %}
        let b{{ j }} = tile_b[({{ j * 8 }}u + tx) * 9u + c];
        {% endfor %}
        {% for i in range(4) %}
        let a{{ i }} = tile_a[(ty * 4u + {{ i }}u) * 9u + c];
        {{ s }}{{ i }} += vec4f(dot(a{{ i }}, b0), dot(a{{ i }}, b1), dot(a{{ i }}, b2), dot(a{{ i }}, b3));
        {% endfor %}
    }
    {% endfor %}
{% endmacro %}

{# acc += s times streamed rows; the caller's last barrier came after the last use of both tiles #}
{% macro product(acc, s, b, n) %}
    {% for i in range(4) %}
    tile_a[(ty * 4u + {{ i }}u) * 9u + tx] = {{ s }}{{ i }};
    {% endfor %}
    {% for chunk in range(CHUNKS) %}
    {% if chunk %}
    workgroupBarrier();
    {% endif %}
    {{- stage("tile_b", "COLS", b, n, chunk, "slot(e / 8u)") }}
    workgroupBarrier();
    for (var c = 0u; c < 8u; c++) {
        {% for j in range(4) %}
        let b{{ j }} = tile_b[({{ j * 8 }}u + c) * 9u + tx];
        {% endfor %}
        {% for i in range(4) %}
        let a{{ i }} = tile_a[(ty * 4u + {{ i }}u) * 9u + c];
        {{ acc }}{{ i }}_{{ chunk }} += a{{ i }}.x * b0 + a{{ i }}.y * b1 + a{{ i }}.z * b2 + a{{ i }}.w * b3;
        {% endfor %}
    }
    {% endfor %}
{% endmacro %}

{% macro zeros(acc) %}
    {% for i in range(4) %}{% for chunk in range(CHUNKS) %}
    var {{ acc }}{{ i }}_{{ chunk }} = vec4f(0.0);
    {% endfor %}{% endfor %}
{% endmacro %}

{# rows of `side` = acc * factor; `factor` may name the row as {i} #}
{% macro store(side, first, acc, factor) %}
{% set x, base, step, limit = side %}
    {% for i in range(4) %}
    if ({{ first }} + ty * 4u + {{ i }}u < {{ limit }}) {
        let at = ({{ base }} + ({{ first }} + ty * 4u + {{ i }}u) * {{ step }}) * D4 + tx;
        {% for chunk in range(CHUNKS) %}
        if ({{ chunk * 8 }}u + tx < D4) {
            {{ x }}[at + {{ chunk * 8 }}u] = vecF({{ acc }}{{ i }}_{{ chunk }} * {{ factor.format(i=i) }});
        }
        {% endfor %}
    }
    {% endfor %}
{% endmacro %}
