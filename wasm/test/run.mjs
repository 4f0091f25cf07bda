// run.mjs DIRECTORY [NAME]: runs the tests of wasm/test/DIRECTORY, or NAME.test.mjs of them, and closes with "N passed, N failed".
import { spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const directory = fileURLToPath(new URL(`./${process.argv[2]}/`, import.meta.url));
const files = readdirSync(directory).filter((name) => name.endsWith('.test.mjs') && (!process.argv[3] || name === `${process.argv[3]}.test.mjs`)).sort();
const count = { pass: 0, fail: 0 };
for (const file of files) {
  await new Promise((resolve) => {
    const test = spawn(process.execPath, ['--test', '--test-reporter=tap', directory + file], { stdio: ['ignore', 'pipe', 'inherit'] });
    let output = '';
    test.stdout.on('data', (data) => {
      process.stdout.write(data);
      output += data;
    });
    test.on('close', (code) => {
      const sum = (name) => Number(new RegExp(`^# ${name} (\\d+)$`, 'm').exec(output)?.[1] ?? 0);
      count.pass += sum('pass');
      count.fail += sum('fail') + sum('cancelled') || Number(code !== 0);
      resolve();
    });
  });
}
console.log(`${count.pass} passed, ${count.fail} failed`);
process.exitCode = count.fail > 0 || count.pass === 0 ? 1 : 0;
