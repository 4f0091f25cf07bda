// The examples of wasm/component/README.md, as a reader would run them: what is in a ```text block is what the block before it prints.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { COMPONENT } from './hosts.mjs';

const readme = readFileSync(new URL('../../component/README.md', import.meta.url), 'utf8');
const wasm = fileURLToPath(new URL('../..', import.meta.url));
const examples = [...readme.matchAll(/^```(js|python)\n(.*?)^```\n\n```text\n(.*?)^```$/gms)].map(([, language, code, output]) => ({ language, code, output }));

let directory;
before(() => {
  directory = mkdtempSync(path.join(tmpdir(), 'delta-vectors-'));
  copyFileSync(COMPONENT, path.join(directory, 'delta-vector.wasm'));
  execFileSync('sh', ['-ec', /^npm init .*$/m.exec(readme)[0]], { cwd: directory, stdio: 'ignore' });
  // What the README installs is what is pinned here.
  const [, packages] = /^npm install (.*)$/m.exec(readme);
  const { devDependencies } = JSON.parse(readFileSync(path.join(wasm, 'package.json'), 'utf8'));
  for (const name of packages.split(' ')) assert.equal(name, `${name.slice(0, name.lastIndexOf('@'))}@${devDependencies[name.slice(0, name.lastIndexOf('@'))]}`);
  symlinkSync(path.join(wasm, 'node_modules'), path.join(directory, 'node_modules'));
  execFileSync('sh', ['-ec', /^npx .*$/m.exec(readme)[0]], { cwd: directory, stdio: 'ignore' });
});
after(() => directory && rmSync(directory, { recursive: true, force: true }));

it('the README has examples in both languages', () => {
  assert.deepEqual(examples.map((e) => e.language), ['js', 'js', 'python', 'js']);
  assert.equal([...readme.matchAll(/^```(?!text|sh)\w+$/gm)].length, examples.length, 'each has its output');
  const pinned = /^wasmtime==\S+/m.exec(readFileSync(new URL('requirements.txt', import.meta.url), 'utf8'))[0];
  assert.ok(readme.includes(`pip install ${pinned}`));
});

for (const [i, { language, code, output }] of examples.entries()) {
  it(`example ${i + 1}, ${language}`, () => {
    const file = path.join(directory, language === 'js' ? `example${i}.js` : `example${i}.py`);
    writeFileSync(file, code);
    const program = language === 'js' ? process.execPath : process.env.WASMTIME_PYTHON;
    assert.equal(execFileSync(program, [file], { cwd: directory, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] }), output);
  });
}
