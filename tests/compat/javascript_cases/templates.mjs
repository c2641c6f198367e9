// Templates by name; what is not served yet says so.

import { randomUUID } from 'node:crypto'

import { Secret, Template, Volume, assert, e2b, raised, scenario, withSandbox } from './kit.mjs'

export default [
  scenario(
    'Template.exists',
    'True for the default one, False for an unknown one',
    { also: ['Template.alias_exists'] },
    async () => {
      assert.equal(await Template.exists('base'), true)
      assert.equal(await Template.exists('no-such-template'), false)
      assert.equal(await Template.aliasExists('base'), true)
    },
  ),

  scenario(
    'Template.assign_tags',
    'shown by get_tags, usable in create, removed',
    { also: ['Template.get_tags', 'Template.remove_tags'] },
    async (shared) => {
      const { templateId } = await (await shared.sandbox()).getInfo()
      const tag = 'v' + randomUUID().slice(0, 8)
      const info = await Template.assignTags('base', tag)
      assert.deepEqual(info.tags, [tag])
      assert.ok(info.buildId)
      const found = (await Template.getTags(templateId)).find((entry) => entry.tag === tag)
      assert.equal(found.buildId, info.buildId)
      await withSandbox({ template: `base:${tag}` }, async (tagged) => {
        assert.equal((await tagged.commands.run('echo 1')).stdout, '1\n')
      })
      await Template.removeTags('base', tag)
      assert.ok(!(await Template.getTags(templateId)).some((entry) => entry.tag === tag))
    },
  ),

  scenario('Template.assign_tags', 'an empty name or tag is refused', async () => {
    for (const [target, tag] of [
      [':x', 'y'],
      ['base', 'base:'],
      ['no-such-template', 'x'],
    ]) {
      await raised(Template.assignTags(target, tag), [e2b.TemplateError, e2b.SandboxError])
    }
  }),

  scenario(
    'Template.build',
    'not served yet: a clear 501',
    { also: ['Template.build_in_background', 'Template.get_build_status'] },
    async () => {
      const template = Template().fromBaseImage()
      await raised(Template.build(template, 'own'), e2b.BuildError, '501')
      await raised(Template.buildInBackground(template, 'own'), e2b.BuildError, '501')
      await raised(Template.getBuildStatus({ templateId: 'x', buildId: randomUUID() }), e2b.BuildError, '501')
    },
  ),

  scenario(
    'Volume.create',
    'not served yet: a clear error',
    { also: ['Volume.connect', 'Volume.get_info', 'Volume.list', 'Volume.destroy'] },
    async () => {
      for (const method of ['create', 'connect', 'getInfo', 'destroy']) {
        await raised(Volume[method]('v'), [e2b.VolumeError, e2b.NotFoundError], '501')
      }
      await raised(Volume.list(), [e2b.VolumeError, e2b.NotFoundError], '501')
    },
  ),

  scenario(
    'Secret.create',
    'not served yet: a clear error',
    { also: ['Secret.get_info', 'Secret.list', 'Secret.update', 'Secret.destroy', 'Secret.exists'] },
    async () => {
      await raised(Secret.create('name', 'value'), e2b.SecretError, '501')
      for (const method of ['getInfo', 'destroy', 'exists']) await raised(Secret[method]('s'), e2b.SecretError, '501')
      await raised(Secret.update('s', 'v'), e2b.SecretError, '501')
      await raised(Secret.list().nextItems(), e2b.SecretError, '501')
    },
  ),

  scenario('Secret.fill', 'a placeholder, made locally', { also: ['Secret.iam_token'] }, async () => {
    assert.match(Secret.fill('name'), /name/)
    assert.equal(Secret.iamToken({ audience: 'a', tokenType: 'JWT-SVID' }).audience, 'a')
  }),
]
