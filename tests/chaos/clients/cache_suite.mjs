// Runs the public suite for HTTP caches (npm: http-cache-tests) through a cache, and prints as JSON what of it failed that a cache must do,
// what it might do better, and how many tests passed. Arguments: the suite's folder, its base URL through the cache.
const [folder, base] = process.argv.slice(2)
const load = (file) => import(`${folder}/node_modules/http-cache-tests/${file}`)

const { default: fetch } = await import(`${folder}/node_modules/node-fetch/lib/index.mjs`)
const { default: tests } = await load('tests/index.mjs')
const { default: surrogate } = await load('tests/surrogate-control.mjs')
const { runTests, getResults } = await load('client/runner.mjs')
const { determineTestResult } = await load('lib/display.mjs')

tests.push(surrogate)
await runTests(tests, fetch, false, base)
const results = getResults()
const passed = { required: 0, optimal: 0, check: 0 }
const failed = {}
const better = []
for (const { id, kind = 'required' } of tests.flatMap((suite) => suite.tests)) {
  const [, , symbol] = determineTestResult(tests, id, results, false)
  if (symbol === '✅' || symbol === 'Y') passed[kind] += 1
  else if (kind === 'required' && symbol !== '-') failed[id] = results[id]
  else if (kind === 'optimal') better.push(id)
}
console.log(JSON.stringify({ passed, failed, better }))
