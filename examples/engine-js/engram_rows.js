// Computes the row ids of a memory with BigInt, and compares golden.json with them.
//
//   engram constants TARGET -o constants
//   engram golden TARGET -o golden
//   node engram_rows.js constants golden
"use strict";
const fs = require("fs");
const path = require("path");

const DEAD = -1;

// What position t of a text of {token, hashed, start} reads, the newest first.
function lookBack(memory, text, t) {
  const skipsDead = memory.rule.skips_dead_tokens;
  let blocked = text[t].token === DEAD;
  const slots = [blocked ? memory.fill : text[t].hashed];
  while (slots.length < memory.max_ngram_size) {
    blocked = blocked || text[t].start === 1;
    t--;
    while (skipsDead && t >= 0 && text[t].token === DEAD) t--;
    blocked = blocked || t < 0 || text[t].token === DEAD || text[t].token === memory.end_id;
    slots.push(blocked ? memory.fill : text[t].hashed);
    if (blocked) t = 0; // nothing before it is read
  }
  return slots;
}

// The rows of a layer's table. Multipliers exceed 2^53: they are read from strings.
function rowsOf(layer, slots) {
  let mix = BigInt(slots[0]) * BigInt(layer.multipliers[0]);
  const rows = [];
  layer.primes.forEach((primes, i) => {
    mix ^= BigInt(slots[i + 1]) * BigInt(layer.multipliers[i + 1]);
    for (const prime of primes) rows.push(layer.offsets[rows.length] + Number(mix % BigInt(prime)));
  });
  return rows;
}

function main(constants, golden) {
  const read = (...names) => fs.readFileSync(path.join(...names));
  const memory = JSON.parse(read(constants, "constants.json"));
  const vectors = JSON.parse(read(golden, "golden.json"));
  const map = memory.map_sha256 === null ? null : read(constants, "engram_token_map.bin");
  let compared = 0;
  for (const { name, steps } of vectors.cases) {
    const text = [];
    for (const step of steps) {
      text.length = step.at;
      step.token_ids.forEach((token, i) => {
        const hashed = map === null || token === DEAD ? token : map.readInt32LE(4 * token);
        text.push({ token, hashed, start: step.starts[i] });
        const slots = lookBack(memory, text, text.length - 1);
        const found = [hashed, memory.layers.map((layer) => rowsOf(layer, slots))];
        const expected = [step.compressed_ids[i], step.rows[i]];
        if (JSON.stringify(found) !== JSON.stringify(expected)) {
          console.log(`${name}: position ${text.length - 1} reads other rows`);
          process.exit(1);
        }
        compared += memory.layers.length * memory.columns;
      });
    }
  }
  console.log(`${memory.layout}: ${compared} row ids are equal`);
}

main(...process.argv.slice(2));
