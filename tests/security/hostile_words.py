"Secrets and scripts that are planted, and the settings of a small run."

SECRET = 's3cr3t-W0rd-0123456789'
SCRIPT = '<script>alert(1)</script><img src=x onerror=alert(2)>'
PLANTED = {'KAGGLE_KEY': SECRET, 'KAGGLE_USERNAME': f'me:{SECRET}', 'AWS_SECRET_ACCESS_KEY': SECRET, 'GITHUB_TOKEN': f'ghp_{SECRET.replace("-", "")}', 'HF_TOKEN': f'hf_{SECRET.replace("-", "")}',
           'DATABASE_URL': f'postgres://me:{SECRET}@host/db', 'https_proxy': f'http://me:{SECRET}@127.0.0.1:9', 'SLURM_JOB_ID': f'token={SECRET}', 'SLURM_JOB_NAME': f'password={SECRET}'}


def words(tree, work, *more): return ['data=kaggle', 'model=physics_only', f'data.root={tree}', f'paths.work={work}', 'executor=serial', *more]
