// The git helpers, against a bare repository inside the sandbox.

import { assert, e2b, raised, scenario, withSandbox } from './kit.mjs'

const WHO = { authorName: 'Ada', authorEmail: 'ada@example.com' }

// A fresh repository with one commit of one file.
async function repository(sandbox, path) {
  await sandbox.git.init(path, { initialBranch: 'main' })
  await sandbox.files.write(`${path}/file`, 'one\n')
  await sandbox.git.add(path)
  await sandbox.git.commit(path, 'first', WHO)
}

export default [
  scenario('git.init', 'with a branch name; bare', async (shared) => {
    const sandbox = await shared.sandbox()
    await sandbox.git.init('/tmp/g-init', { initialBranch: 'trunk' })
    assert.equal((await sandbox.git.status('/tmp/g-init')).currentBranch, 'trunk')
    await sandbox.git.init('/tmp/g-bare.git', { bare: true })
    assert.ok(await sandbox.files.exists('/tmp/g-bare.git/HEAD'))
  }),

  scenario(
    'git.status',
    'untracked, staged, modified, clean',
    { also: ['git.add', 'git.commit'] },
    async (shared) => {
      const sandbox = await shared.sandbox()
      const path = '/tmp/g-status'
      await repository(sandbox, path)
      const clean = await sandbox.git.status(path)
      assert.deepEqual([clean.currentBranch, clean.isClean, clean.detached], ['main', true, false])
      await sandbox.files.write(`${path}/new`, 'x')
      await sandbox.files.write(`${path}/file`, 'two\n')
      const changed = await sandbox.git.status(path)
      assert.deepEqual([changed.totalCount, changed.untrackedCount, changed.stagedCount], [2, 1, 0])
      await sandbox.git.add(path, { files: ['new'] })
      const staged = (await sandbox.git.status(path)).fileStatus.filter((entry) => entry.staged)
      assert.deepEqual(
        staged.map((entry) => [entry.name, entry.status]),
        [['new', 'added']],
      )
    },
  ),

  scenario(
    'git.branches',
    'create, check out, delete',
    { also: ['git.create_branch', 'git.checkout_branch', 'git.delete_branch'] },
    async (shared) => {
      const sandbox = await shared.sandbox()
      const path = '/tmp/g-branches'
      await repository(sandbox, path)
      await sandbox.git.createBranch(path, 'feature')
      const found = await sandbox.git.branches(path)
      assert.deepEqual([found.branches.sort(), found.currentBranch], [['feature', 'main'], 'feature'])
      await sandbox.git.checkoutBranch(path, 'main')
      assert.equal((await sandbox.git.branches(path)).currentBranch, 'main')
      await sandbox.git.deleteBranch(path, 'feature', { force: true })
      assert.deepEqual((await sandbox.git.branches(path)).branches, ['main'])
    },
  ),

  scenario('git.reset', 'hard, and of single paths; restore', { also: ['git.restore'] }, async (shared) => {
    const sandbox = await shared.sandbox()
    const path = '/tmp/g-reset'
    await repository(sandbox, path)
    await sandbox.files.write(`${path}/file`, 'two\n')
    await sandbox.git.add(path)
    await sandbox.git.reset(path, { paths: ['file'] })
    assert.equal((await sandbox.git.status(path)).stagedCount, 0)
    await sandbox.git.restore(path, { paths: ['file'] })
    assert.equal(await sandbox.files.read(`${path}/file`), 'one\n')
    await sandbox.files.write(`${path}/file`, 'three\n')
    await sandbox.git.reset(path, { mode: 'hard', target: 'HEAD' })
    assert.equal(await sandbox.files.read(`${path}/file`), 'one\n')
  }),

  scenario(
    'git.push',
    'to a remote; clone it; pull from it',
    { also: ['git.clone', 'git.pull', 'git.remote_add', 'git.remote_get'] },
    async (shared) => {
      const sandbox = await shared.sandbox()
      const [bare, path, copy] = ['/tmp/g-remote.git', '/tmp/g-push', '/tmp/g-clone']
      await sandbox.git.init(bare, { bare: true, initialBranch: 'main' })
      await repository(sandbox, path)
      await sandbox.git.remoteAdd(path, 'origin', bare)
      assert.equal(await sandbox.git.remoteGet(path, 'origin'), bare)
      assert.equal(await sandbox.git.remoteGet(path, 'nowhere'), undefined)
      await sandbox.git.push(path, { remote: 'origin', branch: 'main' })
      await sandbox.git.clone(`file://${bare}`, { path: copy })
      assert.equal(await sandbox.files.read(`${copy}/file`), 'one\n')
      await sandbox.files.write(`${path}/file`, 'two\n')
      await sandbox.git.add(path)
      await sandbox.git.commit(path, 'second', WHO)
      assert.equal((await sandbox.git.status(path)).ahead, 1)
      await sandbox.git.push(path)
      await sandbox.git.pull(copy)
      assert.equal(await sandbox.files.read(`${copy}/file`), 'two\n')
      const log = await sandbox.commands.run(`git -C ${copy} log -1 --format='%an <%ae> %s'`)
      assert.equal(log.stdout, 'Ada <ada@example.com> second\n')
    },
  ),

  scenario(
    'git.push',
    'without an upstream raises GitUpstreamException',
    { also: ['git.pull'] },
    async (shared) => {
      const sandbox = await shared.sandbox()
      await repository(sandbox, '/tmp/g-upstream')
      await raised(sandbox.git.pull('/tmp/g-upstream'), e2b.GitUpstreamError)
    },
  ),

  scenario(
    'git.set_config',
    'global and local; configure_user',
    { also: ['git.get_config', 'git.configure_user'] },
    async (shared) => {
      const sandbox = await shared.sandbox()
      await sandbox.git.setConfig('core.pager', 'cat')
      assert.equal(await sandbox.git.getConfig('core.pager'), 'cat')
      assert.equal(await sandbox.git.getConfig('no.such'), undefined)
      await sandbox.git.init('/tmp/g-config', { initialBranch: 'main' })
      const local = { scope: 'local', path: '/tmp/g-config' }
      await sandbox.git.configureUser('Ada', 'ada@example.com', local)
      assert.equal(await sandbox.git.getConfig('user.email', local), 'ada@example.com')
    },
  ),

  scenario('git.dangerously_authenticate', 'the credential is kept for the host', async () => {
    await withSandbox({}, async (sandbox) => {
      await sandbox.git.dangerouslyAuthenticate({ username: 'ada', password: 'secret', host: 'git.example.com' })
      const line = "printf 'protocol=https\\nhost=git.example.com\\n\\n' | git credential fill"
      assert.match((await sandbox.commands.run(line)).stdout, /password=secret/)
    })
  }),
]
