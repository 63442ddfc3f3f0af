// Collects the licences of the packages that the bundle contains.
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { buildSync } from "esbuild";

const { metafile } = buildSync({ entryPoints: ["entry.js"], bundle: true, write: false, metafile: true });
const named = Object.keys(metafile.inputs).map((path) => path.match(/^node_modules\/((?:@[^/]+\/)?[^/]+)/)?.[1]);
const found = [...new Set(named.filter(Boolean))].sort();
const texts = found.map((name) => {
  const { version, license } = JSON.parse(readFileSync(`node_modules/${name}/package.json`));
  const file = readdirSync(`node_modules/${name}`).find((each) => /^licen[cs]e/i.test(each));
  const text = file ? readFileSync(`node_modules/${name}/${file}`, "utf8").trim() : license;
  return `${name} ${version} (${license})\n\n${text}\n`;
});
writeFileSync("../../src/spikeproof/report/assets/plot.licences.txt", texts.join(`\n${"-".repeat(72)}\n\n`));
