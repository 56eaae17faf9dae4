import assert from 'node:assert/strict'
import { createHash, createHmac } from 'node:crypto'
import { test } from 'node:test'
import { scramVerifier, verifierMatches } from '../../src/manage/scram.ts'

test('agrees with the example of RFC 7677', () => {
  const verifier = scramVerifier('pencil', Buffer.from('W22ZaJ0SNY7soEsUEjb6gQ==', 'base64'), 4096)
  const [, iterations, salt, storedKey, serverKey] = /^SCRAM-SHA-256\$(\d+):(\S+)\$(\S+):(\S+)$/.exec(verifier) ?? []
  assert.equal(iterations, '4096')
  assert.equal(salt, 'W22ZaJ0SNY7soEsUEjb6gQ==')
  const message = [
    'n=user,r=rOprNGfwEbeRWgbNEkqO',
    'r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096',
    'c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0',
  ].join(',')
  const hmac = (key: string, text: string): Buffer => createHmac('sha256', Buffer.from(key, 'base64')).update(text).digest()
  assert.equal(hmac(serverKey, message).toString('base64'), '6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=')
  // The client's proof is its key XOR the signature; the stored key is the hash of that key.
  const proof = Buffer.from('dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=', 'base64')
  const signature = hmac(storedKey, message)
  const clientKey = proof.map((byte, at) => byte ^ signature[at])
  assert.equal(createHash('sha256').update(clientKey).digest('base64'), storedKey)
})

test('tells whether a verifier was made of a password', () => {
  const verifier = scramVerifier('right')
  assert.equal(verifierMatches(verifier, 'right'), true)
  assert.equal(verifierMatches(verifier, 'wrong'), false)
  for (const other of [null, undefined, '', 'md5abc', 'right']) assert.equal(verifierMatches(other, 'right'), false)
  assert.notEqual(verifier, scramVerifier('right'), 'another salt each time')
})
